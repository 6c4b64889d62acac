"""How OpenAI's chat and text completions tell an answer, in the shape that Ollama gives them."""

import functools
import json
import random
import time
from typing import Any

from vllama.server.relay.exchange import Reply
from vllama.server.relay.refusal import OPENAI, Form
from vllama.server.relay.written import EVENTS, JSON, dump, text
from vllama.server.translation.pieces import Piece, Tally
from vllama.server.translation.splitting import call_id
from vllama.uplink import Headers

_FINGERPRINT = "fp_ollama"
# Stands for a text, to see what is written around it.
_MARK = "\x7fq7x\x7f"
_END = b"data: [DONE]\n\n"


class ChatVoice:
    """Of `/v1/chat/completions`."""

    media_type = EVENTS
    form: Form = OPENAI

    def __init__(self, model: str, *, with_usage: bool) -> None:
        self._id = f"chatcmpl-{random.randrange(999)}"
        self._model = model
        self._with_usage = with_usage
        self._created = int(time.time())
        self._begun: set[int] = set()
        self._called: dict[int, int] = {}
        self.headers: Headers = []

    @functools.cached_property
    def _head(self) -> bytes:
        # Not at once: an answer that only passes through is never told.
        start = dump(self._start("chat.completion.chunk"))[:-1]
        return b"data: " + start + b',"choices":[{"index":'

    @functools.cached_property
    def _before(self) -> bytes:
        return self._head + b'0,"delta":{"content":"'

    def frame(self) -> tuple[bytes, bytes]:
        """Before and after a text of the first choice, once that has begun."""
        return self._before, b'"},"finish_reason":null}]}\n\n'

    def piece(self, piece: Piece) -> bytes:
        """One chunk."""
        choice = piece.choice
        if choice in self._begun and not (piece.thinking or piece.calls or piece.logprobs):
            return b'%b%d,"delta":{"content":%b},"finish_reason":null}]}\n\n' % (
                self._head, choice, text(piece.text),
            )  # fmt: skip
        delta: dict[str, Any] = {} if choice in self._begun else {"role": "assistant"}
        self._begun.add(choice)
        delta["content"] = piece.text
        if piece.thinking:
            delta["reasoning"] = piece.thinking
        if piece.calls:
            first = self._called.get(choice, 0)
            delta["tool_calls"] = calls(piece, first)
            self._called[choice] = first + len(piece.calls)
        told: dict[str, Any] = {"index": choice, "delta": delta, "finish_reason": None}
        if piece.logprobs:
            told["logprobs"] = {"content": piece.logprobs}
        return _event({**self._start("chat.completion.chunk"), "choices": [told]})

    def last(self, tally: Tally) -> bytes:
        """How each choice ended, what it cost, and the end."""
        out = []
        for choice in sorted(tally.finish or {0: "stop"}):
            reason = finish(tally, choice, has_calls=bool(self._called.get(choice)))
            told = {"index": choice, "delta": {}, "finish_reason": reason}
            out.append(_event({**self._start("chat.completion.chunk"), "choices": [told]}))
        if self._with_usage:
            start = self._start("chat.completion.chunk")
            out.append(_event({**start, "choices": [], "usage": usage(tally)}))
        return b"".join((*out, _END))

    def whole(self, pieces: list[Piece], tally: Tally) -> Reply:
        """Everything in one object."""
        choices = []
        for index, piece in enumerate(pieces):
            message: dict[str, Any] = {"role": "assistant", "content": piece.text}
            if piece.thinking:
                message["reasoning"] = piece.thinking
            if piece.calls:
                message["tool_calls"] = calls(piece, 0)
            reason = finish(tally, index, has_calls=bool(piece.calls))
            told: dict[str, Any] = {"index": index, "message": message, "finish_reason": reason}
            if piece.logprobs:
                told["logprobs"] = {"content": piece.logprobs}
            choices.append(told)
        return _reply({**self._start("chat.completion"), "choices": choices, "usage": usage(tally)})

    def _start(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "system_fingerprint": _FINGERPRINT,
        }


class CompletionVoice:
    """Of `/v1/completions`."""

    media_type = EVENTS
    form: Form = OPENAI

    def __init__(self, model: str, *, with_usage: bool) -> None:
        self._id = f"cmpl-{random.randrange(999)}"
        self._model = model
        self._with_usage = with_usage
        self._created = int(time.time())
        self.headers: Headers = []

    def frame(self) -> tuple[bytes, bytes]:
        """Before and after a text of the first choice."""
        return self._frame

    @functools.cached_property
    def _frame(self) -> tuple[bytes, bytes]:
        before, _, after = self.piece(Piece(_MARK)).rpartition(_MARK.encode())
        return before, after

    def piece(self, piece: Piece) -> bytes:
        """One chunk."""
        return self._chunk([_choice(piece.thinking + piece.text, piece.choice, None)])

    def last(self, tally: Tally) -> bytes:
        """How each choice ended, what it cost, and the end."""
        out = [
            self._chunk([_choice("", choice, finish(tally, choice, has_calls=False))])
            for choice in sorted(tally.finish or {0: "stop"})
        ]
        if self._with_usage:
            out.append(_event({**self._start(), "choices": [], "usage": usage(tally)}))
        return b"".join((*out, _END))

    def whole(self, pieces: list[Piece], tally: Tally) -> Reply:
        """Everything in one object."""
        choices = [
            _choice(piece.text, index, finish(tally, index, has_calls=False))
            for index, piece in enumerate(pieces)
        ]
        return _reply({**self._start(), "choices": choices, "usage": usage(tally)})

    def _chunk(self, choices: list[dict[str, Any]]) -> bytes:
        chunk = {**self._start(), "choices": choices}
        if self._with_usage:
            chunk["usage"] = usage(Tally())
        return _event(chunk)

    def _start(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._model,
            "system_fingerprint": _FINGERPRINT,
        }


def loaded(model: str) -> Reply:
    """The answer to a text completion without a prompt."""
    voice = CompletionVoice(model, with_usage=False)
    return voice.whole([Piece()], Tally(finish={0: "load"}))


def calls(piece: Piece, first: int) -> list[dict[str, Any]]:
    """Tool calls with their arguments as text."""
    return [
        {
            "id": call.get("id") or call_id(),
            "index": first + position,
            "type": "function",
            "function": {
                "name": call["function"]["name"],
                "arguments": json.dumps(
                    call["function"]["arguments"], ensure_ascii=False, separators=(",", ":")
                ),
            },
        }
        for position, call in enumerate(piece.calls)
    ]


def finish(tally: Tally, choice: int, *, has_calls: bool) -> str:
    """Why a choice ended."""
    reason = tally.finish.get(choice, "stop")
    if reason in ("stop", "tool_calls"):
        return "tool_calls" if has_calls else "stop"
    return reason


def usage(tally: Tally) -> dict[str, int]:
    """What it cost."""
    return {
        "prompt_tokens": tally.prompt_tokens,
        "completion_tokens": tally.output_tokens,
        "total_tokens": tally.prompt_tokens + tally.output_tokens,
    }


def _choice(content: str, index: int, reason: str | None) -> dict[str, Any]:
    return {"text": content, "index": index, "finish_reason": reason}


def _event(document: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % dump(document)


def _reply(document: dict[str, Any]) -> Reply:
    return Reply(200, dump(document) + b"\n", [(b"content-type", JSON)])
