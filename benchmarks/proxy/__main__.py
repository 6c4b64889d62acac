"""`make bench-proxy`: what vllama costs between client and engine, next to others, in one run.

The engine and the client are pinned to one core, what is measured to another. Its processor
time is read from the kernel, so that a busy machine changes it little; ratios are to
`direct`, to a router in Rust, to a plain FastAPI + httpx proxy and to LiteLLM's proxy in the
same run. At the end,
where vLLM is installed, a real one with a toy model: directly and through vllama in turns.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.proxy import others, real
from benchmarks.proxy.load import Heard, Target
from benchmarks.proxy.rig import CORES, RATE, cpu, machine, proxy, upstream
from benchmarks.proxy.shown import table

# How much longer than its share one may take before it is cut off.
PATIENCE = 2.0
WHOLE_S = 180.0
# Processor time for the same work differs by a third from one time to the next.
REPEATS = 3
# It rests when it uses less than this share of a core for so long; waited for at most so long.
IDLE, REST_S, LONGEST_REST_S = 0.05, 0.5, 60.0


@dataclass(frozen=True)
class Candidate:
    """What is measured: `command` serves on `PORT`; none is the engine itself."""

    name: str
    command: list[str]
    kind: str
    environment: Mapping[str, str] = field(default_factory=dict)


def main() -> int:
    """Measure everything and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path, default=Path("results/proxy"))
    args = parser.parse_args()
    before = machine()
    os.sched_setaffinity(0, {CORES[0]})
    rows: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    with upstream() as url:
        for one in candidates(url, notes):
            if args.only and one.name not in args.only.split(","):
                continue
            try:
                rows[one.name] = measured(one, url, args.seconds)
            except (RuntimeError, OSError) as error:
                notes.append(
                    f"{one.name} could not be measured: {str(error)[-300:] or 'it never finished'}"
                )
                continue
            print(one.name, json.dumps(rows[one.name]), file=sys.stderr, flush=True)
    document: dict[str, Any] = {
        "format": 3, "machine": before, "seconds": args.seconds, "rows": rows,
    }  # fmt: skip
    if not args.only or "vLLM" in args.only.split(","):
        document["vllm"] = real.measured(notes)
    document["notes"] = notes
    if not args.only:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "proxy.json").write_text(json.dumps(document, indent=1) + "\n")
        (args.out / "README.md").write_text(table(document))
    print(table(document))
    return 0


def candidates(url: str, notes: list[str]) -> Iterator[Candidate]:
    """Each in turn; `notes` hears of one that cannot be had."""
    yield Candidate("direct", [], "openai")
    python = sys.executable
    serve = [python, "-m", "vllama", "serve", "--port", "PORT", "--attach", f"m={url}"]
    yield Candidate("vllama /api/chat", serve, "ollama")
    yield Candidate("vllama /v1", serve, "openai")
    plain = [python, "-m", "benchmarks.proxy.plain", url, "PORT"]
    yield Candidate("FastAPI + httpx", plain, "ollama")
    for other in (others.ROUTER, others.LITELLM):
        try:
            yield Candidate(other.name, other.command(url), "openai", other.environment)
        except others.Missing as missing:
            notes.append(f"{other.name} was not measured: {missing}")


def measured(one: Candidate, url: str, seconds: float) -> dict[str, Any]:
    """All figures of one candidate."""
    import uvloop

    with proxy(one.command, url, environment=one.environment) as (target, process):
        work = measure(target, one.kind, process, url, seconds)
        return uvloop.run(asyncio.wait_for(work, WHOLE_S + 10 * seconds))


async def measure(
    target: str, kind: str, process: psutil.Process | None, url: str, seconds: float
) -> dict[str, Any]:
    """All figures of one candidate."""
    server = Target(target, kind)
    await server.streams(4, 10)
    row: dict[str, Any] = {}
    for streams, repeats in ((100, REPEATS), (400, 1)):
        found = []
        for _ in range(repeats):
            with cpu(process) as used:
                heard = await server.streams(streams, int(seconds * RATE), seconds * PATIENCE)
            found.append(streamed(heard, used))
            await rested(process)
        row[f"streams_{streams}"] = middle(found)
    for in_flight in (1, 64):
        with cpu(process) as used:
            heard = await server.calls(in_flight, 100 * min(20, in_flight + 4), seconds)
        row[f"calls_{in_flight}"] = called(heard, used)
    row["abort_ms"] = {
        phase: await abort_ms(server, url, phase) for phase in ("prefill", "decode", "non-stream")
    }
    if process is not None:
        row["rss_mb"] = round(process.memory_info().rss / 1e6)
    return row


async def rested(process: psutil.Process | None) -> None:
    """Until it has cleared away what was cut off: that must not weigh on what is measured next."""
    for _ in range(int(LONGEST_REST_S / REST_S)):
        with cpu(process) as used:
            await asyncio.sleep(REST_S)
        if used[0] < IDLE * REST_S:
            return


def streamed(heard: Heard, used: list[float]) -> dict[str, float]:
    """Figures of many streams."""
    late = sorted(heard.late_s) or [0.0]
    return {
        "tokens_per_s": round(heard.steady_per_s),
        "all_begun_ms": round(heard.all_begun_s * 1e3),
        "late_p50_ms": round(statistics.median(late) * 1e3, 3),
        "late_p99_ms": round(late[int(len(late) * 0.99)] * 1e3, 3),
        "cpu_s_per_million": round(sum(used) / max(1, heard.tokens) * 1e6, 1),
        "failed": heard.failed,
        "unfinished": heard.unfinished,
    }


def middle(found: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure; what failed or was cut off, all of it."""
    sums = ("failed", "unfinished")
    return {
        name: sum(each[name] for each in found) if name in sums
        else statistics.median(each[name] for each in found)
        for name in found[0]
    }  # fmt: skip


def called(heard: Heard, used: list[float]) -> dict[str, float]:
    """Figures of many whole answers."""
    return {
        "p50_ms": round(statistics.median(heard.took_s) * 1e3, 3),
        "per_s": round(len(heard.took_s) / heard.seconds),
        "cpu_us": round(sum(used) / len(heard.took_s) * 1e6),
        "failed": heard.failed,
    }


async def abort_ms(server: Target, url: str, phase: str) -> float | None:
    """From hanging up to the engine's seeing it; None when it does not within 3 s."""
    async with httpx.AsyncClient(trust_env=False) as client:
        before = len((await client.get(f"{url}/aborts")).json())
        left_ns = await server.abort(phase)
        for _ in range(60):
            await asyncio.sleep(0.05)
            seen = (await client.get(f"{url}/aborts")).json()
            if len(seen) > before:
                return float(round((seen[before] - left_ns) / 1e6, 2))
    return None


if __name__ == "__main__":
    sys.exit(main())
