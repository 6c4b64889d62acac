"""A window in which the throughput drifts is no steady one, and is said to be suspect."""

import asyncio
import random
from dataclasses import replace

import pytest

from tests.bench.serving import Call, completes, scripted
from vllama.bench.measurement import Run, Sample
from vllama.bench.steady import doubt, trend
from vllama.bench.workload import Workload

LOAD = Workload("w", 20, 4, concurrency=2, requests=60)


def drifting(share: float, seed: int = 0, *, stream: bool = True, requests: int = 400) -> Run:
    """One lane of requests whose speed changes by `share` from begin to end, and is noisy."""
    rng = random.Random(seed)
    samples, now = [], 0.0
    for i in range(requests):
        rate = 1 + share * i / requests
        took = rng.gauss(1.0, 0.25) / rate
        times = tuple(now + took * (k + 1) / 8 for k in range(8)) if stream else ()
        samples.append(Sample(now, now, now + took, times, 50, 8))
        now += took
    return Run(tuple(samples), 0.0, now)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("share", [-0.4, 0.5])
def test_a_drift_is_found_in_nearly_every_run(share: float, stream: bool) -> None:
    found = [trend(drifting(share, seed, stream=stream)) for seed in range(40)]
    assert sum(f is not None and (f > 0) == (share > 0) for f in found) >= 38


def test_a_steady_run_is_hardly_ever_called_drifting() -> None:
    assert sum(trend(drifting(0.0, seed)) is not None for seed in range(200)) <= 4


def test_few_requests_are_not_judged() -> None:
    assert trend(drifting(-0.6, requests=30)) is None


@pytest.mark.parametrize("meant", [{"rate_to_per_s": 9.0}, {"trace": "x"}, {"arrivals": "bursts"}])
def test_a_load_that_changes_by_itself_is_not_blamed(meant: dict[str, object]) -> None:
    load = replace(LOAD, rate_per_s=2.0)
    assert "fell by" in doubt(drifting(-0.5), load)
    assert doubt(drifting(-0.5), replace(load, **meant)) == ""  # type: ignore[arg-type]


async def test_a_server_that_slows_down_makes_the_measurement_suspect() -> None:
    count = 0

    async def slower_and_slower(call: Call) -> None:
        nonlocal count
        count += 1
        # A scripted server's pace, not a wait of the test for something: it falls evenly.
        await asyncio.sleep(0.03 / (1 - 0.7 * count / 130))
        await completes(call)

    async with scripted(slower_and_slower) as server, server.session() as session:
        shown = await session.measure(replace(LOAD, requests=120))
    assert any("fell by" in reason for reason in shown.suspect)
