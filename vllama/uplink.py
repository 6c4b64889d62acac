"""Callback-driven HTTP/1.1 client: no task, queue or await per chunk.

Both hot paths stand on it: the server relaying an engine's stream, and the load generator
time-stamping one. A general client costs ten times as much per streamed chunk.
"""

import asyncio
import ssl
from collections.abc import Iterable
from typing import Protocol, cast
from urllib.parse import urlsplit

import httptools

Headers = list[tuple[bytes, bytes]]
# A chunk's size, in hexadecimal digits, and the end of its line.
_SIZE_LINE = 10


class UplinkClosed(ConnectionError):
    """The peer closed the connection before the answer was whole.

    `untouched` is True when a kept-alive connection was closed before a single byte of the
    answer: the peer had timed it out, and sending again on a new one is safe.
    """

    def __init__(self, message: str, *, untouched: bool = False) -> None:
        super().__init__(message)
        self.untouched = untouched


class Sink(Protocol):
    """What receives one answer. Called from the event loop; must not block or raise."""

    def on_head(self, status: int, headers: Headers) -> None:
        """The status line and headers (names in lower case) are here."""
        ...

    def on_body(self, piece: bytes) -> None:
        """A piece of the body; several may come in one read."""
        ...

    def on_flush(self) -> None:
        """All pieces of this read have been handed over."""
        ...

    def on_end(self, error: Exception | None) -> None:
        """The answer is whole, or `error` cut it short. Called exactly once."""
        ...


class Uplink(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, pool: "UplinkPool") -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._sink: Sink | None = None
        self._headers: Headers = []
        self._headed = False
        self._complete = False
        self._keep = False
        self._touched = False
        self._used = False
        self._paused = False
        # Whether what was read last ended where a chunk of the body did.
        self._between_chunks = False

    @property
    def is_open(self) -> bool:
        """Whether a request can still be sent on it."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_complete(self) -> bool:
        """Whether the whole answer is here: `on_end` is what its sink hears next."""
        return self._complete

    def send(self, request: bytes, sink: Sink) -> None:
        """Write `request` (head and body) and hand its answer to `sink`."""
        if self._transport is None or self._sink is not None:
            raise RuntimeError("the connection is not free")
        self._sink = sink
        self._parser = httptools.HttpResponseParser(self)
        self._headers = []
        self._headed = self._complete = self._touched = self._between_chunks = False
        self._transport.write(request)

    def abort(self) -> None:
        """Drop the connection at once; the sink hears nothing more."""
        self._sink = None
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        """Stop reading: the peer's writes block once the kernel's buffers are full."""
        if not self._paused and self.is_open and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._paused and self.is_open and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's in all but their class.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        sink = self._sink
        if sink is None or self._parser is None:
            self.abort()
            return
        self._touched = True
        if self._between_chunks:
            # Nearly every read of a stream is one whole chunk, which leaves the parser as it is.
            piece = _whole_chunk(data)
            if piece:
                sink.on_body(piece)
                sink.on_flush()
                return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._finish(UplinkClosed(f"malformed answer: {error}"))
            self.abort()
            return
        self._between_chunks = self._between_chunks and data.endswith(b"\r\n")
        if self._sink is not None:
            sink.on_flush()
        if self._complete:
            self._release()

    def connection_lost(self, exc: Exception | None) -> None:
        # It knows this connection: a cycle that would wait for the collector.
        self._transport = self._parser = None
        self._pool.forget(self)
        if self._sink is None:
            return
        if self._touched and exc is None and self._ends_with_close():
            self._finish(None)
        else:
            untouched = self._used and not self._touched
            self._finish(UplinkClosed(str(exc or "closed by the peer"), untouched=untouched))

    # httptools callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._headed = True
        if self._sink is not None and self._parser is not None:
            self._sink.on_head(self._parser.get_status_code(), self._headers)

    def on_body(self, piece: bytes) -> None:
        if self._sink is not None:
            self._sink.on_body(piece)

    def on_chunk_header(self) -> None:
        self._between_chunks = False

    def on_chunk_complete(self) -> None:
        self._between_chunks = True

    def on_message_complete(self) -> None:
        self._complete = True
        self._between_chunks = False
        # The parser forgets what the headers said as soon as this callback returns.
        self._keep = self._parser is not None and bool(self._parser.should_keep_alive())

    def _ends_with_close(self) -> bool:
        framed = {b"content-length", b"transfer-encoding"}
        return self._headed and not any(name in framed for name, _ in self._headers)

    def _release(self) -> None:
        self._used = True
        self.resume()
        sink, self._sink = self._sink, None
        if self._keep and self.is_open:
            self._pool.give_back(self)
        elif self._transport is not None:
            self._transport.close()
        if sink is not None:
            sink.on_end(None)

    def _finish(self, error: Exception | None) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.on_end(error)


def _whole_chunk(data: bytes) -> bytes:
    """What the one chunk has that `data` is, framing and all; empty when it is anything else."""
    begin = data.find(b"\r\n", 0, _SIZE_LINE) + 2
    end = len(data) - 2
    try:
        is_whole = int(data[: begin - 2], 16) == end - begin and data.endswith(b"\r\n")
    except ValueError:
        return b""
    return data[begin:end] if is_whole else b""


class UplinkPool:
    """Kept-alive connections to one server; `notes` are for what its user found out about it."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not an http URL: {base_url}")
        self._host = parts.hostname
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._prefix = parts.path.rstrip("/").encode()
        self._authority = parts.netloc.rpartition("@")[2].encode()
        self.notes: dict[str, int] = {}
        self._free: list[Uplink] = []
        self._busy: set[Uplink] = set()

    async def acquire(self) -> Uplink:
        """A free connection, opened if there is none.

        Raises:
            OSError: the server cannot be reached.
        """
        free = self.idle()
        if free is not None:
            return free
        loop = asyncio.get_running_loop()
        _, link = await loop.create_connection(
            lambda: Uplink(self), self._host, self._port, ssl=self._tls
        )
        self._busy.add(link)
        return link

    def idle(self) -> Uplink | None:
        """A free open connection without waiting, or None."""
        while self._free:
            link = self._free.pop()
            if link.is_open:
                self._busy.add(link)
                return link
        return None

    def request(
        self,
        method: bytes,
        path: bytes,
        body: bytes = b"",
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> bytes:
        """The bytes of one request to this server."""
        lines = [
            b"%b %b%b HTTP/1.1\r\nhost: %b\r\n" % (method, self._prefix, path, self._authority)
        ]
        lines += [b"%b: %b\r\n" % pair for pair in headers]
        if body or method not in (b"GET", b"HEAD"):
            lines.append(b"content-length: %d\r\n" % len(body))
        return b"".join((*lines, b"\r\n", body))

    def give_back(self, link: Uplink) -> None:
        """Keep a connection for the next request."""
        self._busy.discard(link)
        self._free.append(link)

    def forget(self, link: Uplink) -> None:
        """A connection is gone."""
        self._busy.discard(link)
        if link in self._free:
            self._free.remove(link)

    def close(self) -> None:
        """Drop every connection; answers under way end with an error."""
        for link in (*self._free, *self._busy):
            if link._transport is not None:
                link._transport.abort()
        self._free.clear()
