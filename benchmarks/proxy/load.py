"""The client of the benchmark: many streams by callbacks, and how late each token came."""

import asyncio
import math
import re
import time
from dataclasses import dataclass, field

from vllama.uplink import Headers, Uplink, UplinkPool

STAMP = re.compile(rb'content": ?"(\d{10,}) "')


@dataclass
class Heard:
    """What came back. Times in seconds.

    The window is from when the last stream had begun to when the first of them ended: all
    are under way in it.
    """

    tokens: int = 0
    arrived_s: list[float] = field(default_factory=list)
    window_s: tuple[float, float] = (0.0, 0.0)
    all_begun_s: float = 0.0
    late_s: list[float] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)
    failed: int = 0
    unfinished: int = 0
    seconds: float = 0.0

    @property
    def steady_per_s(self) -> float:
        """Tokens/s in the window; over all of the time where there is none."""
        begin, end = self.window_s
        if end <= begin:
            return self.tokens / self.seconds
        return sum(begin < at <= end for at in self.arrived_s) / (end - begin)


class Listener:
    """One answer: counts stamped tokens, and how long they were under way."""

    def __init__(self, heard: Heard) -> None:
        self.heard = heard
        self.ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.first: asyncio.Event = asyncio.Event()
        self.status = 0
        self.first_s: float | None = None
        self.last_s = math.inf
        self._pieces: list[bytes] = []

    def on_head(self, status: int, _headers: Headers) -> None:
        self.status = status

    def on_body(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def on_flush(self) -> None:
        now = time.monotonic_ns()
        for stamp in STAMP.findall(b"".join(self._pieces)):
            self.heard.tokens += 1
            self.last_s = now / 1e9
            if self.first_s is None:
                self.first_s = self.last_s
            self.heard.arrived_s.append(self.last_s)
            self.heard.late_s.append((now - int(stamp)) / 1e9)
        self._pieces.clear()
        self.first.set()

    @property
    def has_said(self) -> bool:
        """Whether a token came."""
        return self.first_s is not None

    def on_end(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(error)


def body(kind: str, *, stream: bool, tokens: int, prompt: str = "hi") -> bytes:
    """One request, as OpenAI's API or as Ollama's."""
    messages = f'"messages":[{{"role":"user","content":"{prompt}"}}]'
    streams = "true" if stream else "false"
    if kind == "openai":
        usage = ',"stream_options":{"include_usage":true}' if stream else ""
        return (
            f'{{"model":"m",{messages},"stream":{streams},"max_tokens":{tokens}{usage}}}'.encode()
        )
    options = f'"options":{{"num_predict":{tokens}}}'
    return f'{{"model":"m",{messages},"stream":{streams},{options}}}'.encode()


class Target:
    """One server under test."""

    def __init__(self, url: str, kind: str) -> None:
        self.pool = UplinkPool(url)
        self.kind = kind
        self.path = b"/v1/chat/completions" if kind == "openai" else b"/api/chat"

    async def send(
        self, heard: Heard, *, stream: bool, tokens: int, prompt: str = "hi"
    ) -> tuple[Listener, Uplink]:
        """Begin one request."""
        listener = Listener(heard)
        link = await self.pool.acquire()
        raw = body(self.kind, stream=stream, tokens=tokens, prompt=prompt)
        headers = [(b"content-type", b"application/json")]
        link.send(self.pool.request(b"POST", self.path, raw, headers), listener)
        return listener, link

    async def streams(self, count: int, tokens: int, limit_s: float = math.inf) -> Heard:
        """`count` streams at once, each of `tokens` tokens; those not done in time are cut off."""
        heard = Heard()
        began = time.monotonic()
        sent = [await self.send(heard, stream=True, tokens=tokens) for _ in range(count)]
        left_s = None if math.isinf(limit_s) else max(0.0, limit_s + began - time.monotonic())
        await asyncio.wait({listener.ended for listener, _ in sent}, timeout=left_s)
        heard.seconds = time.monotonic() - began
        firsts = [listener.first_s for listener, _ in sent if listener.first_s is not None]
        if len(firsts) == count:
            # A stream that was cut off lasted until then.
            ends = [one.last_s if one.ended.done() else math.inf for one, _ in sent]
            heard.window_s = (max(firsts), min(*ends, began + heard.seconds))
            heard.all_begun_s = max(firsts) - began
        for listener, link in sent:
            if not listener.ended.done():
                heard.unfinished += 1
                link.abort()
                continue
            error = listener.ended.result()
            heard.failed += error is not None or listener.status != 200 or not listener.has_said
        return heard

    async def calls(self, in_flight: int, total: int, limit_s: float = math.inf) -> Heard:
        """`total` whole answers, or as many as the time is enough for, `in_flight` at a time."""
        heard = Heard()
        left = iter(range(total))
        start = time.monotonic()

        async def worker() -> None:
            for _ in left:
                began = time.monotonic()
                if began - start > limit_s:
                    return
                listener, _ = await self.send(heard, stream=False, tokens=200)
                error = await listener.ended
                heard.failed += error is not None or listener.status != 200
                heard.took_s.append(time.monotonic() - began)

        await asyncio.gather(*(worker() for _ in range(in_flight)))
        heard.seconds = time.monotonic() - start
        return heard

    async def abort(self, phase: str) -> int:
        """Hang up in a phase; when (monotonic ns)."""
        prompt = "hi" if phase == "decode" else "hold"
        listener, link = await self.send(
            Heard(), stream=phase != "non-stream", tokens=10_000, prompt=prompt
        )
        if phase == "decode":
            await listener.first.wait()
        else:
            await asyncio.sleep(0.1)
        now = time.monotonic_ns()
        link.abort()
        return now
