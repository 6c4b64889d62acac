"""The client's connection: uvicorn's HTTP protocol, which also lends the relay its transport.

A relayed stream is written straight to the transport: what ASGI costs for each piece, an
await and a message, is paid once for the head and once for the end.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from vllama.server.relay.exchange import Reply
from vllama.uplink import Headers

EXTENSION = "vllama.downlink"
# What everything that is sent around the usual way has to carry, and its status when it was sent.
HEADERS, STATUS = "vllama.headers", "vllama.status"
# After a minute of silence from its kernel, a client is taken to be gone (milliseconds, seconds).
VANISHED = {
    "TCP_USER_TIMEOUT": 60_000, "TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3,
}  # fmt: skip


class Downlink(HttpToolsProtocol):
    """One client's connection. It tells the relay at once when the client leaves."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._on_lost: Callable[[], None] | None = None
        self.on_writable: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come. One that vanishes without a word is found out."""
        super().connection_made(transport)
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in VANISHED.items():
                if hasattr(socket, name):
                    raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

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

    def write_chunk(self, data: bytes) -> None:
        """One piece of a chunked body; the head must have left."""
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def answer(self, scope: Scope, reply: Reply) -> bool:
        """A whole answer in one write, if it can be: in two, the client would be woken twice."""
        cycle = self.cycle
        # Of several requests sent ahead, only the last one's cycle is known.
        if cycle is None or cast(Scope, cycle.scope) is not scope or self.is_full:
            return False
        extensions = scope["extensions"]
        pairs: Headers = [*cycle.default_headers, *reply.headers, *extensions[HEADERS]]
        if not cycle.keep_alive:
            pairs.append((b"connection", b"close"))
        head = b"".join([b"%b: %b\r\n" % pair for pair in pairs])
        length = len(reply.body)
        self.transport.write(
            b"%b%bcontent-length: %d\r\n\r\n%b"
            % (STATUS_LINE[reply.status], head, length, reply.body)
        )
        extensions[STATUS] = reply.status
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        super().connection_lost(exc)
        on_lost, self._on_lost = self._on_lost, None
        if on_lost is not None:
            on_lost()

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
