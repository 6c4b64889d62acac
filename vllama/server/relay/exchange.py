"""The two halves of serving one request: an exchange translates, the relay moves bytes.

An exchange is one client's request in its API's terms. It is pure but for `prepare`: no I/O,
no clock but the one it is handed. The relay (`relay.answer`) leases the engine, sends the
call, passes bytes through the exchange, retries what may be retried, and aborts when the
client hangs up.
"""

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from vllama.errors import VllamaError
from vllama.server.lifecycle.runner import Lease
from vllama.uplink import Headers

Pairs = tuple[tuple[bytes, bytes], ...]
# What a call to an engine carries along, for the request that this task serves.
outward: ContextVar[Pairs] = ContextVar("outward", default=())


@dataclass(frozen=True, slots=True)
class Call:
    """What to ask the engine."""

    path: bytes
    body: bytes
    method: bytes = b"POST"
    headers: Pairs = ((b"content-type", b"application/json"),)


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer, the engine's or the one for the client. Header names in lower case."""

    status: int
    body: bytes
    headers: Headers = field(default_factory=list)


class Exchange(Protocol):
    """One request of one client.

    `model` is the name to lease; `keep_alive_s` what the request says of it, if anything;
    `streams` whether the answer is a stream, of `media_type` with `headers`. `affinity` is the
    beginning of the prompt, in any form: equal ones are led to one replica, whose cache has it.
    `has_enough` when whatever the engine still streams is not wanted: it may be stopped.
    """

    model: str
    keep_alive_s: float | None
    streams: bool
    media_type: str
    headers: Headers
    affinity: bytes

    @property
    def has_enough(self) -> bool: ...

    async def prepare(self, lease: Lease) -> None:
        """Ask the engine for what the call needs (`relay.fetch`), before each `call`.

        May raise a VllamaError: the request is answered with `failed`.
        """
        ...

    def call(self, lease: Lease) -> Call:
        """The engine's request for this lease; called again when it is retried."""
        ...

    def feed(self, data: bytes) -> bytes:
        """Any piece of the engine's stream in; what the client gets for it, often nothing."""
        ...

    def end(self) -> bytes:
        """The engine's stream is whole: the last bytes for the client."""
        ...

    def broken(self, error: VllamaError) -> bytes:
        """The stream broke after bytes had left: the error in the form its API knows."""
        ...

    def whole(self, reply: Reply) -> Reply:
        """The engine's whole answer (status 200) as the client's, when it does not stream."""
        ...

    def refused(self, reply: Reply) -> Reply:
        """The engine's own error answer as the client's."""
        ...

    def failed(self, error: VllamaError) -> Reply:
        """Nothing has left yet and there will be no answer: the error as a whole reply."""
        ...
