"""One client under a known load; its own process, so that its CPU time is its own.

    python -m benchmarks.client.load CLIENT URL STREAMS CORE

Prints one JSON object: CPU per chunk while the clock ran and for reading afterwards, how late
chunks were stamped, the error of gaps between them, and whether every token was counted.
"""

import asyncio
import gc
import json
import os
import re
import sys
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from benchmarks.client.realtime import realtime

_SENT = re.compile(rb'"sent":([0-9.]+)}')
BODY = {"model": "m", "prompt": [1, 2, 3, 4, 5, 6, 7, 8], "stream": True, "max_tokens": 1}


@dataclass
class Outcome:
    """(sent by the server, stamped here) of every chunk, stream by stream."""

    streams: list[list[tuple[float, float]]] = field(default_factory=list)
    running_cpu_s: float = 0.0
    reading_cpu_s: float = 0.0
    tokens: int = 0


async def vllama_client(url: str, streams: int) -> Outcome:
    """vllama's own client: bytes are kept, and read after the run."""
    from vllama.bench.answers import read, read_events
    from vllama.bench.dialect import OpenAi, Prompt
    from vllama.bench.wire import wire

    pool = wire(url)
    request = OpenAi("m").request(pool, Prompt("", 8, (1, 2, 3)), 1, stream=True)
    outcome = Outcome()
    # As in a load, whose first requests open the connections and are not measured.
    await pool.open(streams)
    started_s = time.process_time()
    kept = await asyncio.gather(*(pool.exchange(request, 120) for _ in range(streams)))
    outcome.running_cpu_s = time.process_time() - started_s
    started_s = time.process_time()
    samples = [read(transcript, 0.0, read_events) for transcript in kept]
    outcome.reading_cpu_s = time.process_time() - started_s
    outcome.tokens = sum(sample.output_tokens for sample in samples)
    for transcript, sample in zip(kept, samples, strict=True):
        sent = [float(t) for t in _SENT.findall(transcript.body)]
        outcome.streams.append(list(zip(sent, sample.chunk_s, strict=True)))
    pool.close()
    return outcome


class _Bare(asyncio.Protocol):
    """Keeps what comes and when; its server's answers end with a zero-length chunk."""

    def __init__(self) -> None:
        self.kept: list[tuple[float, bytes]] = []
        self.ended = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.kept.append((time.perf_counter(), data))
        if data.endswith(b"\r\n0\r\n\r\n"):
            self.ended.set_result(None)


async def bare_client(url: str, streams: int) -> Outcome:
    """The floor: sockets, the loop and one stamp a read. No client can cost less here."""
    host, _, port = url.removeprefix("http://").partition(":")
    loop = asyncio.get_running_loop()
    links = [await loop.create_connection(_Bare, host, int(port)) for _ in range(streams)]
    body = json.dumps(BODY).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nhost: %b\r\ncontent-length: %d\r\n\r\n"
    outcome = Outcome()
    started_s = time.process_time()
    for transport, _ in links:
        transport.write(head % (host.encode(), len(body)) + body)
    await asyncio.gather(*(protocol.ended for _, protocol in links))
    outcome.running_cpu_s = time.process_time() - started_s
    for transport, protocol in links:
        transport.close()
        stamps = [(float(t), at_s) for at_s, data in protocol.kept for t in _SENT.findall(data)]
        outcome.streams.append(stamps)
        outcome.tokens += len(stamps)
    return outcome


async def httpx_client(url: str, streams: int) -> Outcome:
    """The way most load generators are written: a task and an await for each line."""
    import httpx

    outcome = Outcome()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)

    async def one(client: Any) -> None:
        stamps: list[tuple[float, float]] = []
        async with client.stream("POST", f"{url}/v1/completions", json=BODY) as response:
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line[6:])
                if "sent" in chunk:
                    stamps.append((chunk["sent"], time.perf_counter()))
                elif "usage" in chunk:
                    outcome.tokens += chunk["usage"]["completion_tokens"]
        outcome.streams.append(stamps)

    async with httpx.AsyncClient(timeout=None, limits=limits, trust_env=False) as client:
        started_s = time.process_time()
        await asyncio.gather(*(one(client) for _ in range(streams)))
        outcome.running_cpu_s = time.process_time() - started_s
    return outcome


async def aiohttp_client(url: str, streams: int) -> Outcome:
    """What vLLM's own benchmark is built on."""
    import aiohttp

    outcome = Outcome()

    async def one(session: Any) -> None:
        stamps: list[tuple[float, float]] = []
        rest = b""
        async with session.post(f"{url}/v1/completions", json=BODY) as response:
            async for piece in response.content.iter_any():
                *events, rest = (rest + piece).split(b"\n\n")
                for event in events:
                    if not event.startswith(b"data: {"):
                        continue
                    chunk = json.loads(event[6:])
                    if "sent" in chunk:
                        stamps.append((chunk["sent"], time.perf_counter()))
                    elif "usage" in chunk:
                        outcome.tokens += chunk["usage"]["completion_tokens"]
        outcome.streams.append(stamps)

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        started_s = time.process_time()
        await asyncio.gather(*(one(session) for _ in range(streams)))
        outcome.running_cpu_s = time.process_time() - started_s
    return outcome


CLIENTS = {
    "bare": bare_client, "vllama": vllama_client,
    "httpx": httpx_client, "aiohttp": aiohttp_client,
}  # fmt: skip


def quantile(values: list[float], share: float) -> float:
    """The nearest value."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def summary(outcome: Outcome, wall_s: float) -> dict[str, float]:
    """The figures of one run. Gaps are compared with the gaps that the server made."""
    late = [stamped - sent for stream in outcome.streams for sent, stamped in stream]
    gaps = [
        abs((b[1] - a[1]) - (b[0] - a[0]))
        for stream in outcome.streams
        for a, b in pairwise(stream)
    ]
    chunks = len(late)
    return {
        "chunks": chunks,
        "tokens": outcome.tokens,
        "wall_s": wall_s,
        "running_us": 1e6 * outcome.running_cpu_s / chunks,
        "reading_us": 1e6 * outcome.reading_cpu_s / chunks,
        "late_p50_ms": 1e3 * quantile(late, 0.5),
        "late_p99_ms": 1e3 * quantile(late, 0.99),
        "gap_error_p50_ms": 1e3 * quantile(gaps, 0.5),
        "gap_error_p99_ms": 1e3 * quantile(gaps, 0.99),
    }


def main(client: str, url: str, streams: int, core: int) -> None:
    """Run one client once."""
    import uvloop

    os.sched_setaffinity(0, {core})
    granted = realtime()
    gc.collect()
    gc.freeze()
    gc.disable()
    started_s = time.perf_counter()
    outcome = uvloop.run(CLIENTS[client](url, streams))
    print(json.dumps(summary(outcome, time.perf_counter() - started_s) | {"realtime": granted}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
