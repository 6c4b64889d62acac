"""One request on the wire: bytes and their arrival times are kept, and read after the run.

Nothing is parsed while the clock runs: the client must not be what is measured.
"""

import asyncio
from time import perf_counter

from vllama.bench.measurement import CANCELLED
from vllama.uplink import Headers, Uplink, UplinkClosed, UplinkPool


class Transcript:
    """What one request brought. It is the sink of one answer."""

    __slots__ = (
        "_done",
        "_hang_up_after",
        "_link",
        "error",
        "pieces",
        "retry_after_s",
        "sent_s",
        "status",
        "times",
    )

    def __init__(self, done: "asyncio.Future[None]", hang_up_after: int | None = None) -> None:
        self._done = done
        self._hang_up_after = hang_up_after
        self._link: Uplink | None = None
        self.sent_s = 0.0
        self.status = 0
        self.retry_after_s = 0.0
        self.times: list[float] = []
        self.pieces: list[bytes] = []
        self.error: str | None = None

    def on_head(self, status: int, headers: Headers) -> None:
        self.status = status
        if status != 200:
            self.error = f"http-{status}"
            self.retry_after_s = _seconds(dict(headers).get(b"retry-after", b""))

    def on_body(self, piece: bytes) -> None:
        self.times.append(perf_counter())
        self.pieces.append(piece)

    def on_flush(self) -> None:
        if self._hang_up_after is not None and len(self.pieces) >= self._hang_up_after:
            self._drop(CANCELLED)

    def on_end(self, error: Exception | None) -> None:
        # From here on the link is another's.
        self._link = None
        if self._done.done():
            return
        if isinstance(error, UplinkClosed) and error.untouched:
            self._done.set_exception(error)
            return
        if error is not None:
            self.error = "malformed" if str(error).startswith("malformed") else "reset"
        self._done.set_result(None)

    async def fill(self, link: Uplink, request: bytes, timeout_s: float) -> None:
        """Send `request` on `link` and wait for the end of the answer.

        Raises:
            UplinkClosed: the connection was dead before; nothing was answered.
        """
        deadline = asyncio.get_running_loop().call_later(timeout_s, self._drop, "timeout")
        self._link = link
        self.sent_s = perf_counter()
        link.send(request, self)
        try:
            await self._done
        except asyncio.CancelledError:
            self._drop(CANCELLED)
            raise
        finally:
            deadline.cancel()

    def _drop(self, error: str) -> None:
        """Hang up, unless the answer has ended and the link may be another's already."""
        if self._link is not None:
            self._link.abort()
            self._link = None
            self.error = error
            if not self._done.done():
                self._done.set_result(None)

    @property
    def body(self) -> bytes:
        """All that came."""
        return b"".join(self.pieces)


async def exchange(
    pool: UplinkPool, request: bytes, timeout_s: float, *, hang_up_after: int | None = None
) -> Transcript:
    """Send one request and wait for its whole answer; failures are in `.error`.

    A kept-alive connection that the server had already closed is no failure of the server:
    the request is sent again on another one, and its clock starts anew.
    """
    while True:
        transcript = Transcript(asyncio.get_running_loop().create_future(), hang_up_after)
        try:
            link = pool.idle() or await pool.acquire()
        except OSError:
            transcript.sent_s = perf_counter()
            transcript.error = "refused"
            return transcript
        try:
            await transcript.fill(link, request, timeout_s)
        except UplinkClosed:
            continue
        return transcript


def _seconds(text: bytes) -> float:
    return float(text) if text.isdigit() else 0.0
