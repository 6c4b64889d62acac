"""The load's own HTTP/1.1 client: a time stamp and the raw bytes are all it takes of a read.

Where an answer ends is seen in its last bytes; its framing is taken off after the load. What
does not end in the usual way is parsed at once, which costs more and is as exact.
"""

import asyncio
import ssl
from time import perf_counter
from typing import cast

import httptools

from vllama.bench.measurement import CANCELLED
from vllama.bench.transcript import MALFORMED, REFUSED, RESET, TIMEOUT, Transcript
from vllama.bench.wire import Address

_LAST = b"\r\n0\r\n\r\n"
NO_HTTP = (httptools.HttpParserError, ValueError)


class _Reads:
    """The raw reads of one answer, and what takes the framing off."""

    __slots__ = ("_fed", "_headers", "_now_s", "_parser", "_rest", "_transcript", "chunked",
                 "data", "headed", "keeps", "times", "whole")  # fmt: skip

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._now_s = 0.0
        self._fed = 0
        self._rest = b""
        self.times: list[float] = []
        self.data: list[bytes] = []
        self.headed = self.whole = self.chunked = False
        self.keeps = True

    def parse(self) -> None:
        """All reads that have not been parsed yet.

        Raises:
            ValueError, HttpParserError: this is no HTTP.
        """
        while self._fed < len(self.data) and not self.chunked:
            self._now_s = self.times[self._fed]
            self._fed += 1
            self._parser.feed_data(self.data[self._fed - 1])
            if self.chunked:
                _, _, body = b"".join(self.data[: self._fed]).partition(b"\r\n\r\n")
                self._rest = self._unchunk(body, self._now_s)
        begin, self._fed = self._fed, len(self.data)
        for arrived_s, data in zip(self.times[begin:], self.data[begin:], strict=True):
            if not self._rest:
                # Nearly every read is one whole chunk.
                size = data.find(b"\r\n")
                if data[:size].isalnum() and int(data[:size], 16) == len(data) - size - 4 > 0:
                    self._transcript.put(data[size + 2 : -2], arrived_s)
                    continue
            self._rest = self._unchunk(self._rest + data, arrived_s)

    def _unchunk(self, data: bytes, arrived_s: float) -> bytes:
        """Put every whole chunk of `data`; what is left over."""
        begin = 0
        while (end := data.find(b"\r\n", begin)) >= 0:
            size = int(data[begin:end].partition(b";")[0], 16)
            if size == 0:
                self.whole = data.endswith(b"\r\n\r\n")
                break
            if len(data) < end + size + 4:
                break
            if data[end + 2 + size : end + 4 + size] != b"\r\n":
                raise ValueError("a chunk is longer than it says")
            self._transcript.put(data[end + 2 : end + 2 + size], arrived_s)
            begin = end + 4 + size
        return data[begin:]

    def unpack(self, transcript: Transcript) -> None:
        """After the load: what was kept back."""
        try:
            self.parse()
        except NO_HTTP:
            transcript.error = transcript.error or MALFORMED
        if transcript.error is None and self.chunked and not self.whole:
            transcript.error = RESET
        self.data.clear()
        self.times.clear()
        del self._parser

    def ended_as_usual(self, data: bytes) -> bool:
        """Whether this last read closes a chunked answer."""
        if len(data) >= len(_LAST):
            return data.endswith(_LAST)
        return b"".join(self.data[-4:])[-len(_LAST) :] == _LAST

    @property
    def ends_with_close(self) -> bool:
        """Whether nothing but the end of the connection ends this answer."""
        framed = {b"content-length", b"transfer-encoding"}
        return self.headed and not any(name in framed for name, _ in self._headers)

    # httptools callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.headed = True
        self.keeps = bool(self._parser.should_keep_alive())
        told = dict(self._headers)
        self.chunked = told.get(b"transfer-encoding", b"").lower() == b"chunked"
        self._transcript.head(self._parser.get_status_code(), self._headers)

    def on_body(self, piece: bytes) -> None:
        if not self.chunked:
            self._transcript.put(piece, self._now_s)

    def on_message_complete(self) -> None:
        self.whole = not self.chunked


class _Link(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, wire: "RawWire") -> None:
        self._wire = wire
        self._transport: asyncio.Transport | None = None
        self._used = False
        self._idle()

    def _idle(self) -> None:
        self._reads: _Reads | None = None
        self._transcript: Transcript | None = None
        self._done: asyncio.Future[bool] | None = None
        self._hang_up_after: int | None = None
        self._lazy = False
        self._stamp = list[float]().append
        self._keep = list[bytes]().append

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def fill(
        self, transcript: Transcript, request: bytes, timeout_s: float, hang_up_after: int | None
    ) -> bool:
        """Send and wait for the end; False when the connection had been dead before."""
        loop = asyncio.get_running_loop()
        assert self._transport is not None
        self._transcript, self._reads = transcript, _Reads(transcript)
        self._stamp, self._keep = self._reads.times.append, self._reads.data.append
        done: asyncio.Future[bool] = loop.create_future()
        self._done = done
        self._hang_up_after = hang_up_after
        deadline = loop.call_later(timeout_s, self._drop, TIMEOUT)
        transcript.sent_s = perf_counter()
        self._transport.write(request)
        try:
            return await done
        except asyncio.CancelledError:
            self._drop(CANCELLED)
            raise
        finally:
            deadline.cancel()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's in all but their class.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._stamp(perf_counter())
        self._keep(data)
        # No content ends so: an event's blank line comes before the end of its chunk.
        if self._lazy and len(data) >= 4 and data[-4:] != b"\r\n\r\n":
            return
        self._look(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._wire.forget(self)
        reads = self._reads
        if reads is None:
            return
        if exc is None and reads.ends_with_close:
            self._end(None)
        elif self._used and not reads.data:
            self._end(None, answered=False)
        else:
            self._end(RESET)

    def _look(self, data: bytes) -> None:
        """Whether this read ends the answer."""
        reads = self._reads
        if reads is None:
            self.abort()
            return
        if self._lazy and reads.ended_as_usual(data):
            self._release(reads)
            return
        try:
            reads.parse()
        except NO_HTTP:
            self.abort()
            self._end(MALFORMED)
            return
        if reads.whole:
            self._release(reads)
        elif (
            self._hang_up_after is not None
            and reads.headed
            and len(self._transcript.pieces if self._transcript else ()) >= self._hang_up_after
        ):
            self._drop(CANCELLED)
        else:
            self._lazy = reads.chunked and self._hang_up_after is None

    def _release(self, reads: _Reads) -> None:
        self._used = True
        if reads.keeps and self.is_open:
            self._end(None)
            self._wire.give_back(self)
            return
        self._end(None)
        if self._transport is not None:
            self._transport.close()

    def _end(self, error: str | None, *, answered: bool = True) -> None:
        transcript, reads, done = self._transcript, self._reads, self._done
        self._idle()
        if transcript is None or reads is None or done is None:
            return
        if error is not None:
            transcript.error = error
        if not reads.whole:
            transcript.later(reads)
        if not done.done():
            done.set_result(answered)

    def _drop(self, error: str) -> None:
        """Hang up, unless the answer has ended and the link may be another's already."""
        if self._reads is not None:
            self.abort()
            self._end(error)

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._transport is not None:
            self._transport.abort()


class RawWire(Address):
    """Kept-alive connections to one server."""

    name = "raw"

    def __init__(self, base_url: str) -> None:
        super().__init__(base_url)
        self._free: list[_Link] = []
        self._all: set[_Link] = set()

    async def exchange(
        self, request: bytes, timeout_s: float, *, hang_up_after: int | None = None
    ) -> Transcript:
        """As `Wire` says. A kept-alive connection that the server had already closed is no
        failure of the server: the request is sent again, and its clock starts anew.
        """
        while True:
            transcript = Transcript()
            try:
                link = self._idle() or await self._connect()
            except OSError:
                transcript.sent_s = perf_counter()
                transcript.error = REFUSED
                return transcript
            if await link.fill(transcript, request, timeout_s, hang_up_after):
                return transcript

    async def open(self, connections: int) -> None:
        wanted = max(0, connections - len(self._free))
        got = await asyncio.gather(
            *(self._connect() for _ in range(wanted)), return_exceptions=True
        )
        self._free += [link for link in got if isinstance(link, _Link)]

    def close(self) -> None:
        for link in list(self._all):
            link.abort()
        self._free.clear()

    def give_back(self, link: _Link) -> None:
        """Keep a connection for the next request."""
        self._free.append(link)

    def forget(self, link: _Link) -> None:
        """A connection is gone."""
        self._all.discard(link)
        if link in self._free:
            self._free.remove(link)

    def _idle(self) -> _Link | None:
        while self._free:
            link = self._free.pop()
            if link.is_open:
                return link
        return None

    async def _connect(self) -> _Link:
        loop = asyncio.get_running_loop()
        _, link = await loop.create_connection(
            lambda: _Link(self), self.host, self.port, ssl=self._tls()
        )
        self._all.add(link)
        return link

    def _tls(self) -> ssl.SSLContext | None:
        return ssl.create_default_context() if self.is_tls else None
