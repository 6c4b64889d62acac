"""The part with a real engine: vLLM with a toy model, asked directly, through vllama, and, where
it can be had, through the router in Rust: what any proxy costs an engine that it shares cores with.

Throughput from long answers, as the ratio within each pair of rounds; the first token from many
rounds of short ones, as the difference within each pair, for with many streams it is mostly the
engine's own queue. Once with vLLM's defaults, and once as `vllama tune` starts it on processors.
"""

import asyncio
import contextlib
import math
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.proxy import others
from benchmarks.proxy.rig import CORES, proxy
from vllama import engines, hardware, toy
from vllama.bench.compare import paired
from vllama.engines.engine import Endpoint
from vllama.errors import EngineFailed, EngineMissing
from vllama.settings import Settings
from vllama.store import names
from vllama.tuner.knobs_vllm_cpu import WORKER
from vllama.uplink import Headers, UplinkPool

MODEL = Path(".cache/gate-toy")
TOKENS, FEW_TOKENS = 64, 2
# Pairs of rounds with long and with short answers, by streams.
ROUNDS = {1: (12, 60), 16: (10, 60), 64: (8, 30)}
DEFAULT, TUNED = "default", "tuned"
LIMIT_S = 120.0
_SAID = re.compile(rb'"content":"[^"]')
_COUNTED = re.compile(rb'"completion_tokens":(\d+)')


def measured(notes: list[str]) -> list[dict[str, Any]]:
    """A row for each number of streams; none, and a note, where there is no vLLM."""
    os.sched_setaffinity(0, set(CORES))
    if not MODEL.exists():
        toy.make(MODEL)
    try:
        return asyncio.run(_measure(MODEL.resolve()))
    except (EngineMissing, EngineFailed, TimeoutError) as error:
        notes.append(f"The part with a real vLLM was left out: {error}")
        return []


async def _measure(model: Path) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as home:
        settings = Settings.from_environment(
            {**os.environ, "VLLAMA_HOME": home, "HF_HUB_OFFLINE": "1"}
        )
        vllm = engines.engine("vllm", settings)
        vllm.version()
        default = vllm.default(names.resolve(str(model), settings), hardware.detect())
        profile = default.with_options(
            max_model_len=1024, max_num_seqs=64, kv_cache_memory_bytes="256M"
        )
        # What tuning finds on processors without 16-bit arithmetic, and with few cores.
        tuned = replace(profile.with_options(dtype="float32"), environment={WORKER: "0"})
        rows = []
        for name, each in ((DEFAULT, profile), (TUNED, tuned)):
            async with vllm.start(each) as endpoint:
                rows += [{"profile": name, **row} for row in await _beside(endpoint)]
        return rows


async def _beside(endpoint: Endpoint) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "vllama", "serve", "--port", "PORT", "--attach"]
    commands = {"through": [*command, f"{endpoint.model}={endpoint.base_url}"]}
    with contextlib.suppress(others.Missing):
        commands["router"] = others.ROUTER.command(endpoint.base_url)
    with contextlib.ExitStack() as stack:
        urls = {"direct": endpoint.base_url}
        for side, words in commands.items():
            place = proxy(words, endpoint.base_url, cores=frozenset(CORES))
            urls[side], _ = stack.enter_context(place)
        return await _rows(endpoint, urls)


async def _rows(endpoint: Endpoint, urls: Mapping[str, str]) -> list[dict[str, Any]]:
    for each in urls.values():
        await _round(each, endpoint.model, 2, "warm", TOKENS)
    rows = []
    for streams, (long, short) in ROUNDS.items():
        heard = await _in_turns(urls, endpoint.model, streams, long, TOKENS)
        first = await _in_turns(urls, endpoint.model, streams, short, FEW_TOKENS)
        rows.append(
            {
                "streams": streams, "rounds": long, "first_rounds": short,
                **{side: _figures(heard[side], first[side]) for side in urls},
                "ratio": {
                    side: _ratio(heard["direct"], rounds)
                    for side, rounds in heard.items() if side != "direct"
                },
                "added_ms": {
                    side: _added_ms(first["direct"], rounds)
                    for side, rounds in first.items() if side != "direct"
                },
            }
        )  # fmt: skip
        print("real vLLM", rows[-1], file=sys.stderr, flush=True)
    return rows


async def _in_turns(
    urls: Mapping[str, str], model: str, streams: int, rounds: int, tokens: int
) -> dict[str, list["_Round"]]:
    """So many rounds of each side, and each as often first."""
    heard: dict[str, list[_Round]] = {side: [] for side in urls}
    for number in range(rounds):
        sides = list(enumerate(urls.items()))
        for place, (side, url) in sides if number % 2 else reversed(sides):
            # Of the same length on both sides, and never the same: nothing is cached.
            begun = f"{tokens:04} {len(urls) * number + place:04}"
            heard[side].append(await _round(url, model, streams, begun, tokens))
    return heard


def _ratio(direct: Sequence["_Round"], through: Sequence["_Round"]) -> list[float]:
    """Tokens/s of those through a proxy to those directly, and its 95 %."""
    rates = [[one.tokens_per_s for one in side] for side in (direct, through)]
    found = paired(*rates, lower_is_better=False)
    return [round(x, 3) for x in (found.ratio, *(found.ci95 or ()))]


def _added_ms(direct: Sequence["_Round"], through: Sequence["_Round"]) -> list[float]:
    """How much later the first token comes: the centre of the paired differences, and its 95 %."""
    # Of differences, not of ratios, by comparing their exponentials.
    later = [math.exp(t.first_s - d.first_s) for d, t in zip(direct, through, strict=True)]
    found = paired([1.0] * len(later), later, lower_is_better=True)
    return [round(math.log(x) * 1e3, 2) for x in (found.ratio, *(found.ci95 or ()))]


@dataclass
class _Round:
    """Some streams at once."""

    tokens: int = 0
    seconds: float = 0.0
    ttft_s: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def tokens_per_s(self) -> float:
        """Of all streams together."""
        return self.tokens / self.seconds

    @property
    def first_s(self) -> float:
        """Until the first token, in the median."""
        return statistics.median(self.ttft_s or [0.0])


def _figures(long: list[_Round], short: list[_Round]) -> dict[str, Any]:
    return {
        "tokens_per_s": round(statistics.median(one.tokens_per_s for one in long), 1),
        "ttft_p50_ms": round(statistics.median(one.first_s for one in short) * 1e3, 2),
        "failed": sum(one.failed for one in (*long, *short)),
    }


class _Ear:
    """One stream: when its first word came, and how many the engine says it had."""

    def __init__(self) -> None:
        self.sent_s = time.monotonic()
        self.first_s = 0.0
        self.tokens = 0
        self.ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._status = 0

    def on_head(self, status: int, _headers: Headers) -> None:
        self._status = status

    def on_body(self, piece: bytes) -> None:
        if not self.first_s and _SAID.search(piece):
            self.first_s = time.monotonic()
        counted = _COUNTED.search(piece)
        if counted:
            self.tokens = int(counted[1])

    def on_flush(self) -> None:
        pass

    def on_end(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(error is None and self._status == 200 and self.tokens > 0)


async def _round(url: str, model: str, streams: int, begun: str, tokens: int) -> _Round:
    pool = UplinkPool(url)
    made = _Round()
    ears = []
    began_s = time.monotonic()
    for number in range(streams):
        # Each on a connection of its own, whose opening is not part of the first token's time.
        link = await pool.acquire()
        text = f"{begun} {number:02}: tell me something"
        raw = (
            f'{{"model":"{model}","messages":[{{"role":"user","content":"{text}"}}],'
            f'"stream":true,"stream_options":{{"include_usage":true}},"max_tokens":{tokens},'
            f'"temperature":0}}'
        ).encode()
        ear = _Ear()
        kind = [(b"content-type", b"application/json")]
        link.send(pool.request(b"POST", b"/v1/chat/completions", raw, kind), ear)
        ears.append(ear)
    async with asyncio.timeout(LIMIT_S):
        for ear in ears:
            made.failed += not await ear.ended
            made.tokens += ear.tokens
            if ear.first_s:
                made.ttft_s.append(ear.first_s - ear.sent_s)
    made.seconds = time.monotonic() - began_s
    pool.close()
    return made
