"""The client's connection: uvicorn's HTTP protocol, which also lends the relay its transport.

What is relayed is written straight to the transport: ASGI costs an await and a message for each
piece, and a write for the head, another for the first token, one more for the end.
"""

from collections.abc import Callable
from typing import Any, cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from vllama.server.relay.exchange import Reply
from vllama.uplink import Headers

EXTENSION = "vllama.downlink"
# What everything that is sent around the usual way has to carry, and its status when it was sent.
HEADERS, STATUS = "vllama.headers", "vllama.status"


class Downlink(HttpToolsProtocol):
    """One client's connection. It tells the relay at once when the client leaves."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._on_lost: Callable[[], None] | None = None
        self.on_writable: Callable[[], None] | None = None

    def on_message_begin(self) -> None:
        """A request begins: its scope carries this connection."""
        super().on_message_begin()
        cast(Scope, self.scope)["extensions"] = {EXTENSION: self, HEADERS: []}

    @property
    def is_full(self) -> bool:
        """Whether the client reads slower than we write."""
        return bool(self.flow.write_paused)

    @property
    def is_lost(self) -> bool:
        """Whether the client has gone."""
        return self.transport is None or self.transport.is_closing()

    def watch(self, on_lost: Callable[[], None]) -> None:
        """Call back when the client leaves, until `unwatch`."""
        self._on_lost = on_lost

    def unwatch(self) -> None:
        """Call back no more."""
        self._on_lost = self.on_writable = None

    def begin(self, scope: Scope, headers: Headers, data: bytes) -> bool:
        """The head of a chunked answer and its first piece in one write, if that can be."""
        cycle = self._cycle_of(scope)
        if cycle is None:
            return False
        head = _head(cycle, 200, headers)
        framing = b"transfer-encoding: chunked\r\n\r\n"
        self.transport.write(b"%b%b%x\r\n%b\r\n" % (head, framing, len(data), data))
        cycle.response_started = cycle.chunked_encoding = True
        return True

    def write_chunk(self, data: bytes) -> None:
        """One piece of a chunked body; the head must have left. Lost with a client that has gone.

        The engine's next piece may be here before whoever cares for the request knows of it, and
        uvloop's transports raise when they are written to after their end.
        """
        if not self.is_lost:
            self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def finish(self, scope: Scope, data: bytes) -> bool:
        """The last piece of a chunked body, which may be empty, and its end, if that can be."""
        cycle = self._cycle_of(scope)
        if cycle is None:
            return False
        piece = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        self.transport.write(piece + b"0\r\n\r\n")
        self._complete(cycle)
        return True

    def answer(self, scope: Scope, reply: Reply) -> bool:
        """A whole answer in one write, if it can be: in two, the client would be woken twice."""
        cycle = self._cycle_of(scope)
        if cycle is None:
            return False
        head = _head(cycle, reply.status, reply.headers)
        length = len(reply.body)
        self.transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, length, reply.body))
        cycle.response_started = True
        self._complete(cycle)
        return True

    def _cycle_of(self, scope: Scope) -> RequestResponseCycle | None:
        """The cycle of the request that is answered now, when its client can take more."""
        cycle = self.cycle
        # Of several requests sent ahead, only the last one's cycle is known.
        if cycle is None or cast(Scope, cycle.scope) is not scope or self.is_full or self.is_lost:
            return None
        return cycle

    def _complete(self, cycle: RequestResponseCycle) -> None:
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        super().connection_lost(exc)
        on_lost, self._on_lost = self._on_lost, None
        if on_lost is not None:
            on_lost()
        # Both lead back here, a cycle that would wait for the collector; whoever answers has them.
        self.cycle = self.scope = None  # type: ignore[assignment]

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        if self.on_writable is not None:
            self.on_writable()


def carry(scope: Scope, headers: Headers) -> None:
    """Have the answer to this request carry these, should it go around the usual way."""
    scope.get("extensions", {}).get(HEADERS, []).extend(headers)


def sent_status(scope: Scope) -> int:
    """The status of what was sent around the usual way; 0 when nothing was."""
    return int(scope.get("extensions", {}).get(STATUS, 0))


def downlink(scope: Scope) -> Downlink | None:
    """The connection of a request, when it may be written to directly: chunked, HTTP/1.1."""
    found = scope.get("extensions", {}).get(EXTENSION)
    if found is None or scope.get("http_version") != "1.1" or scope.get("method") == "HEAD":
        return None
    return cast(Downlink, found)


def _head(cycle: RequestResponseCycle, status: int, headers: Headers) -> bytes:
    """All of it but for the framing of the body; the status is noted."""
    extensions = cast(Scope, cycle.scope)["extensions"]
    extensions[STATUS] = status
    pairs: Headers = [*cycle.default_headers, *headers, *extensions[HEADERS]]
    if not cycle.keep_alive:
        pairs.append((b"connection", b"close"))
    return b"".join([STATUS_LINE[status], *[b"%b: %b\r\n" % pair for pair in pairs]])
