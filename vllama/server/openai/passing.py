"""Passing: a request to somebody else's OpenAI server goes there as it came, and so the answer.

Only where nothing has to be done to either: the rest is read and told anew by `Generation`.
"""

import re
from collections.abc import Collection

import msgspec

from vllama.errors import EngineFailed, VllamaError
from vllama.server.lifecycle.pool import Pool
from vllama.server.lifecycle.runner import Lease
from vllama.server.relay import relay
from vllama.server.relay.exchange import Call, Reply
from vllama.server.translation import dialects, engine_calls, planning
from vllama.server.translation.ask import Ask
from vllama.server.translation.embedding import Wish, at_most
from vllama.server.translation.generation import Generation, Voice

_ROLE = re.compile(
    rb'"choices":\[\{[^{}]*"delta":\{"role":"assistant","content":(?:""|null)'
    rb'(?:,"\w+":null)*\}(?:,"\w+":null)*\}\]'
)
# What vllama puts into other words for the engine behind it.
_REWORDED = frozenset({"reasoning", "reasoning_effort", "_debug_render_only"})


class Passing(Generation):
    """A generation that stands aside when `body` can be sent to the engine's `path` as it is.

    `known` are the fields that vllama reads: spelt in other letters, the engine would not.
    `cuts`: a prompt that may be too long is told anew, to be cut; else the engine refuses it.
    """

    def __init__(
        self, ask: Ask, voice: Voice, *, path: bytes, body: bytes, known: Collection[str],
        cuts: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(ask, voice)
        self._path = path
        self._body = body
        self._cuts = cuts
        self._named = _plain_model(body, known)
        self._is_aside = False
        self._held: bytes | None = b""

    async def prepare(self, lease: Lease) -> None:
        """See whether this engine may have it as it is."""
        self._held = b""
        self._is_aside = await self._may_pass(lease)
        if not self._is_aside:
            await super().prepare(lease)

    async def _may_pass(self, lease: Lease) -> bool:
        ask = self.ask
        if ask.card is not None or ask.images or not _takes(lease, self._named):
            return False
        window = await engine_calls.window(lease) if self._cuts else 0
        if window and planning.at_most_tokens(ask) >= window:
            return False
        return not dialects.unsent_stops(ask, lease)

    def call(self, lease: Lease) -> Call:
        """The bytes of the client, or what `prepare` decided on."""
        return Call(self._path, self._body) if self._is_aside else super().call(lease)

    @property
    def has_enough(self) -> bool:
        """Never of what is only passed on."""
        return not self._is_aside and super().has_enough

    def feed(self, data: bytes) -> bytes:
        """As it came; what says only who speaks waits for the first word, or the next event."""
        if not self._is_aside:
            return super().feed(data)
        if self._held is None:
            return data
        # vLLM sends it just before: two writes would wake the client twice for one token.
        if not self._held and _says_only_who(data):
            self._held = data
            return b""
        data, self._held = self._held + data, None
        return data

    def end(self) -> bytes:
        """Nothing is added."""
        return (self._held or b"") if self._is_aside else super().end()

    def broken(self, error: VllamaError) -> bytes:
        """The error, after the rest of an event that was cut short."""
        return (b"\n\n" if self._is_aside else b"") + super().broken(error)

    def whole(self, reply: Reply) -> Reply:
        """As it came."""
        return _as_it_came(reply) if self._is_aside else super().whole(reply)


async def embedded(wish: Wish, body: bytes, known: Collection[str], pool: Pool) -> Reply | None:
    """The engine's own answer to a body that asks for embeddings; None when it must be read.

    It must where a vector is to be cut, a text may be too long, or the engine refuses.
    """
    if wish.card is not None or wish.dimensions:
        return None
    async with pool.lease(wish.key, wish.keep_alive_s) as lease:
        if not _takes(lease, _plain_model(body, known)):
            return None
        window = await engine_calls.window(lease)
        if window and any(at_most(text) > window for text in wish.texts):
            return None
        reply = await relay.fetch(lease, Call(b"/v1/embeddings", body))
    return _as_it_came(reply) if reply.status == 200 else None


def _takes(lease: Lease, named: str) -> bool:
    """Whether this engine reads requests for `named` as OpenAI's API has them."""
    endpoint = lease.endpoint
    is_openai = endpoint.api == "openai" and not engine_calls.is_llamacpp(lease)
    return is_openai and named == endpoint.model


def _as_it_came(reply: Reply) -> Reply:
    if not reply.body.lstrip().startswith(b"{"):
        raise EngineFailed("the engine's answer is no JSON")
    kind = [pair for pair in reply.headers if pair[0] == b"content-type"]
    return Reply(reply.status, reply.body, kind)


def _says_only_who(data: bytes) -> bool:
    """Whether it is one whole event that names a role and has no text, and does not end either."""
    is_one = data.endswith(b"\n\n") and data.find(b"\n\n") == len(data) - 2
    return is_one and _ROLE.search(data) is not None


def _plain_model(body: bytes, known: Collection[str]) -> str:
    """The model that a body names; empty when the engine would read something else in it."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""  # Go reads more than JSON, engines do not
    if not isinstance(document, dict):
        return ""
    for name in document:
        if name in _REWORDED or (name not in known and name.casefold() in known):
            return ""
    return str(document.get("model") or "")
