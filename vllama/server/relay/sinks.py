"""What takes in an engine's answer: whole, or translated piece by piece as it comes."""

import asyncio

from starlette.types import Scope

from vllama.errors import EngineFailed, VllamaError
from vllama.server.lifecycle.trace import Trace
from vllama.server.relay.downlink import Downlink
from vllama.server.relay.exchange import Exchange, Reply
from vllama.uplink import Headers, Uplink

# What may lie here for a client that reads slower than its engine writes.
BUFFER_BYTES = 64 * 1024


class Whole:
    """Collects one answer."""

    def __init__(self) -> None:
        self.status = 0
        self._headers: Headers = []
        self._pieces: list[bytes] = []
        self.ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def reply(self) -> Reply:
        """What came."""
        return Reply(self.status, b"".join(self._pieces), self._headers)

    def on_head(self, status: int, headers: Headers) -> None:
        self.status, self._headers = status, headers

    def on_body(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def on_flush(self) -> None:
        pass

    def on_end(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(error)


class Stream:
    """Translates one streamed answer as it comes, and holds what the client has yet to take.

    With the `down`link of the request in `scope`, whatever comes is written straight to the
    client: nobody is woken but for the end, and for what has to go the usual way.
    """

    def __init__(
        self, exchange: Exchange, trace: Trace, scope: Scope, down: Downlink | None
    ) -> None:
        self._exchange = exchange
        self._trace = trace
        self._scope = scope
        self._down = down
        self.link: Uplink | None = None
        self.news = asyncio.Event()
        self.status = 0
        self.size = 0
        self.begun = False
        self.ended = False
        self.error: Exception | None = None
        self._headers: Headers = []
        self._raw: list[bytes] = []
        self._ready: list[bytes] = []
        self._is_direct = False

    def take(self) -> bytes:
        """All that is ready for the client."""
        data = b"".join(self._ready)
        self._ready.clear()
        self.size = 0
        return data

    @property
    def headers(self) -> Headers:
        """For the client."""
        return [(b"content-type", self._exchange.media_type.encode()), *self._exchange.headers]

    def flow(self) -> None:
        """All that was here has been taken: go on, and straight to the client if that can be."""
        if self._down is not None and self.begun:
            self._go_direct(self._down)
        else:
            self._resume()

    def reply(self) -> Reply:
        """An answer that was no stream but a refusal."""
        return Reply(self.status, b"".join(self._raw), self._headers)

    def on_head(self, status: int, headers: Headers) -> None:
        self.status, self._headers = status, headers

    def on_body(self, piece: bytes) -> None:
        self._raw.append(piece)

    def on_flush(self) -> None:
        if self.status != 200 or not self._raw or self.ended:
            return
        raw = self._raw[0] if len(self._raw) == 1 else b"".join(self._raw)
        self._raw.clear()
        try:
            out = self._exchange.feed(raw)
        except Exception as error:  # a sink must not raise into the connection
            self._fail(error)
            return
        if out:
            self._trace.read()
            self._hand_over(out)
        if self._exchange.has_enough:
            if self.link is not None:
                self.link.abort()
            self.on_end(None)

    def _hand_over(self, out: bytes) -> None:
        if self._sent_straight(out):
            return
        self._ready.append(out)
        self.size += len(out)
        if self.size > BUFFER_BYTES:
            self._pause()
        self.news.set()

    def _sent_straight(self, out: bytes) -> bool:
        down, link = self._down, self.link
        # What comes with the end leaves with the end: in two writes the client would wake twice.
        if down is None or link is None or link.is_complete:
            return False
        if self._is_direct:
            down.write_chunk(out)
            if down.is_full:
                self._pause()
            return True
        if self.begun or self._ready or not down.begin(self._scope, self.headers, out):
            return False
        self.begun = True
        self._go_direct(down)
        return True

    def on_end(self, error: Exception | None) -> None:
        if not self.ended:
            self.ended = True
            self.error = error
            self.news.set()

    def _go_direct(self, down: Downlink) -> None:
        self._is_direct = True
        down.on_writable = self._resume
        if down.is_full:
            self._pause()
        else:
            self._resume()

    def _pause(self) -> None:
        if self.link is not None and not self.ended:
            self.link.pause()

    def _resume(self) -> None:
        # A link that has ended may serve somebody else already.
        if self.link is not None and not self.ended:
            self.link.resume()

    def _fail(self, error: Exception) -> None:
        if self.link is not None:
            self.link.abort()
        if not isinstance(error, VllamaError):
            error = EngineFailed(f"the engine's answer could not be read: {error!r}")
        self.on_end(error)
