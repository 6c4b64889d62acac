"""Do verdicts hold on live servers? The same server against itself, and against one 5 % slower.

    python -m benchmarks.client.verdicts

Simulated engines on the real clock, under the real client: each run is ten pairs of blocks, in
turns, judged as `vllama bench` judges them. The slower one loses 5 % of the whole: its steps take
as much more time as that needs, for what requests cost beside them does not slow down with it.
Writes results/client/verdicts.json and .md. With modelled noise, tests/bench/test_compare.py
does the same a thousand times.
"""

import argparse
import json
import statistics
import sys
import time
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

from benchmarks.client.realtime import realtime
from vllama.bench.compare import paired
from vllama.bench.measurement import Measurement
from vllama.bench.rig import LiveSession, Rig
from vllama.bench.wire import run_fast
from vllama.bench.workload import Workload
from vllama.engines.simulator import NAME, Simulator
from vllama.profile import Profile
from vllama.settings import Settings

RESULTS = Path(__file__).parents[2] / "results" / "client"
PAIRS = 10
SLOWER = 1.05
# Measurements of each side that tell how much of the whole the steps are.
CALIBRATION = 8
MOST_FALSE, FEWEST_FOUND = 0.05, 0.95
LOAD = Workload("live", prompt_tokens=32, output_tokens=12, concurrency=4, requests=8)


async def judged(baseline: LiveSession, candidate: LiveSession) -> dict[str, Any]:
    """One run: ten pairs in turns, and the verdict on tokens/s."""
    shown: dict[LiveSession, list[Measurement]] = {baseline: [], candidate: []}
    for pair in range(PAIRS):
        sides = (baseline, candidate) if pair % 2 == 0 else (candidate, baseline)
        for side in sides:
            shown[side].append(await side.measure(LOAD))
    rates = [[m.output_tokens_per_s for m in shown[side]] for side in (baseline, candidate)]
    found = paired(*rates, lower_is_better=False)
    return {"verdict": found.verdict, "ratio": found.ratio, "ci95": found.ci95}


async def slower_scale(rig: Rig) -> float:
    """How long steps must take for the whole to take 5 % more."""
    seconds: dict[float, list[float]] = {1.0: [], 2.0: []}
    async with AsyncExitStack() as stack:
        sessions = [
            (scale, await stack.enter_async_context(_engine(rig, scale))) for scale in seconds
        ]
        for _ in range(CALIBRATION):
            for scale, session in sessions:
                seconds[scale].append(1 / (await session.measure(LOAD)).output_tokens_per_s)
    once, twice = (statistics.median(taken) for taken in seconds.values())
    return 1 + (SLOWER - 1) / (twice / once - 1)


def _engine(rig: Rig, scale: float) -> AbstractAsyncContextManager[LiveSession]:
    return rig.started(Profile(f"x{scale:.3f}", NAME, "m", options={"time_scale": scale}))


async def runs(number: int) -> dict[str, list[dict[str, Any]]]:
    """So many of both kinds, in turns, on three engines that stay up."""
    rig = Rig(Simulator(Settings.from_environment()))
    found: dict[str, list[dict[str, Any]]] = {"same": [], "slower": []}
    async with AsyncExitStack() as stack:
        slower = await slower_scale(rig)
        one, twin, slow = [
            await stack.enter_async_context(_engine(rig, scale)) for scale in (1.0, 1.0, slower)
        ]
        for _ in range(number):
            found["same"].append(await judged(one, twin))
            found["slower"].append(await judged(one, slow))
    return found


def table(found: dict[str, list[dict[str, Any]]], took_s: float) -> str:
    """Markdown: how often which verdict was reached."""
    words = ("faster", "slower", "same", "undecided")
    lines = [f"| candidate | runs | {' | '.join(words)} | median ratio |", "|" + " --- |" * 7]
    for kind, of in found.items():
        counts = [sum(each["verdict"] == word for each in of) for word in words]
        middle = sorted(each["ratio"] for each in of)[len(of) // 2]
        name = "the same" if kind == "same" else f"{SLOWER - 1:.0%} slower"
        lines.append(f"| {name} | {len(of)} | {' | '.join(map(str, counts))} | {middle:.3f} |")
    return "\n".join([*lines, "", f"Took {took_s:.0f} s."])


def main() -> int:
    """Run, print and keep; 1 when verdicts are wrong more often than allowed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    # The engines inherit it: what is asked is whether verdicts hold, not who else is at work here.
    granted = realtime()
    began_s = time.monotonic()
    found = run_fast(runs(args.runs))
    text = f"# Are the bench's verdicts right?\n\n{table(found, time.monotonic() - began_s)}"
    if not granted:
        text += "\n\nNo real-time priority here: noise is also that of a shared machine."
    print(text)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "verdicts.json").write_text(json.dumps(found, indent=1) + "\n")
    (args.out / "verdicts.md").write_text(text + "\n")
    wrong = sum(each["verdict"] in ("faster", "slower") for each in found["same"])
    right = sum(each["verdict"] == "slower" for each in found["slower"])
    held = wrong <= MOST_FALSE * args.runs and right >= FEWEST_FOUND * args.runs
    print(f"{'met' if held else 'MISSED'}: false {wrong}, found {right} of {args.runs}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
