"""The load over httpx: the same answers at ten times the cost, where nothing faster is."""

import asyncio
from time import perf_counter

import httpx

from vllama.bench.measurement import CANCELLED
from vllama.bench.transcript import MALFORMED, REFUSED, RESET, TIMEOUT, Transcript
from vllama.bench.wire import Address

_FAILURES: tuple[tuple[type[Exception], str], ...] = (
    (httpx.ConnectError, REFUSED),
    (httpx.RemoteProtocolError, RESET),
    (httpx.DecodingError, MALFORMED),
    (httpx.TransportError, RESET),
)


class PlainWire(Address):
    """Kept-alive connections to one server, by httpx."""

    name = "httpx"

    def __init__(self, base_url: str) -> None:
        super().__init__(base_url)
        scheme = "https" if self.is_tls else "http"
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._client = httpx.AsyncClient(
            base_url=f"{scheme}://{self.host}:{self.port}", timeout=None, limits=limits,
            trust_env=False,
        )  # fmt: skip
        self._closing: asyncio.Task[None] | None = None

    async def exchange(
        self, request: bytes, timeout_s: float, *, hang_up_after: int | None = None
    ) -> Transcript:
        """As `Wire` says."""
        transcript = Transcript()
        try:
            async with asyncio.timeout(timeout_s):
                await self._fill(transcript, request, hang_up_after)
        except TimeoutError:
            transcript.error = TIMEOUT
        except httpx.HTTPError as error:
            transcript.error = next(name for kind, name in _FAILURES if isinstance(error, kind))
        return transcript

    async def open(self, connections: int) -> None:
        """Nothing: httpx connects when it must."""

    def close(self) -> None:
        """Drop every connection."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self._closing = loop.create_task(self._client.aclose())

    async def _fill(self, transcript: Transcript, data: bytes, hang_up_after: int | None) -> None:
        request = self._parsed(data)
        transcript.sent_s = perf_counter()
        answer = await self._client.send(request, stream=True)
        try:
            headers = [(name.lower(), value) for name, value in answer.headers.raw]
            transcript.head(answer.status_code, headers)
            async for piece in answer.aiter_raw():
                transcript.put(piece, perf_counter())
                if hang_up_after is not None and len(transcript.pieces) >= hang_up_after:
                    transcript.error = CANCELLED
                    return
        finally:
            await answer.aclose()

    def _parsed(self, data: bytes) -> httpx.Request:
        """The request that `Address.request` made, as httpx wants it."""
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        method, target, _ = first.split(b" ")
        headers = [tuple(line.split(b": ", 1)) for line in lines if line[:5] != b"host:"]
        return self._client.build_request(
            method.decode(), target.decode(), content=body,
            headers=[(name, value) for name, value in headers],
        )  # fmt: skip
