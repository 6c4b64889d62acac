"""Shapes: notes what real requests are like, for the tuner to replay; never what they say."""

import json
import time
from collections.abc import Iterator

from vllama.server.lifecycle.trace import Trace
from vllama.server.translation.ask import Ask
from vllama.server.translation.generation import Generation
from vllama.traffic import Notebook, Salt, Seen


class Shapes:
    """Keeps the shape of every generation that an engine has answered, if only in part."""

    def __init__(self, notebook: Notebook, salt: Salt) -> None:
        self._notebook = notebook
        self.salt = salt

    def seen(self, exchange: object, trace: Trace) -> None:
        """One is over; what was refused or never begun is no traffic."""
        if not isinstance(exchange, Generation) or not trace.first_s:
            return
        if trace.outcome not in ("ok", "left", "broken"):
            return
        prompt = "".join(_said(exchange.ask))
        tally = exchange.tally
        took_s = time.monotonic() - trace.began_s
        # Who left early was told no figures: each read is a token, or a few.
        reads = sum(trace.gaps) + 1 if exchange.streams else 0
        self._notebook.add(
            Seen(
                at_s=round(time.time() - took_s, 4),
                took_s=round(took_s, 4),
                model=exchange.model,
                stream=exchange.streams,
                letters=len(prompt),
                prompt_tokens=tally.prompt_tokens,
                output_tokens=max(1, tally.output_tokens or reads),
                prefix=self.salt.prefix(prompt),
            )
        )


def _said(ask: Ask) -> Iterator[str]:
    """The prompt in the order in which engines read it, so that what begins alike stays so."""
    if ask.tools:
        yield json.dumps(ask.tools, default=str)
    for message in ask.messages:
        calls = message.get("tool_calls")
        yield f"\x1e{message.get('role', '')}\x1f{message.get('content') or ''}"
        yield json.dumps(calls, default=str) if calls else ""
        # An image counts as what it is, once.
        yield from message.get("images") or ()
    if ask.raw is not None:
        yield ask.raw
    for each in ask.batch:
        yield each if isinstance(each, str) else " ".join(map(str, each))
