"""The open loop: arrivals are drawn before, and a slow server's queue is not hidden."""

import asyncio
import statistics
from itertools import pairwise
from pathlib import Path

import pytest

from tests.bench.serving import Call, completes, scripted
from vllama.bench import arrivals
from vllama.bench.arrivals import Process, draw
from vllama.bench.measurement import Run, Sample, summarize
from vllama.bench.workload import Workload
from vllama.errors import UsageError


@pytest.mark.parametrize("process", ["constant", "poisson", "gamma", "bursts"])
def test_the_mean_rate_is_as_asked_and_the_same_seed_draws_the_same(process: Process) -> None:
    drawn = draw(process, 50, 200, cv=2.0, seed=3)
    assert len(drawn) == pytest.approx(50 * 200, rel=0.08)
    assert drawn == draw(process, 50, 200, cv=2.0, seed=3)
    assert drawn == sorted(drawn)
    if process != "constant":
        assert drawn != draw(process, 50, 200, cv=2.0, seed=4)


@pytest.mark.parametrize(("process", "cv"), [("poisson", 1.0), ("gamma", 0.5), ("gamma", 4.0)])
def test_gaps_vary_as_much_as_asked(process: Process, cv: float) -> None:
    gaps = [b - a for a, b in pairwise(draw(process, 100, 400, cv=cv))]
    assert statistics.stdev(gaps) / statistics.mean(gaps) == pytest.approx(cv, rel=0.1)


async def test_a_slow_server_is_sent_all_the_same_and_its_queue_is_seen() -> None:
    turn = asyncio.Lock()

    async def slow(call: Call) -> None:
        if not call.body.get("stream"):
            return await completes(call)
        async with turn:
            return await completes(call, delays_s=[0.1])

    load = Workload("w", 20, 4, rate_per_s=40, duration_s=1.0, arrivals="constant")
    async with scripted(slow) as server, server.session() as session:
        shown = await session.measure(load)
    assert shown.completed + shown.failed == 40
    assert server.most_in_flight > 10
    assert shown.ttft_scheduled_s is not None
    assert shown.ttft_scheduled_s.p50 > 0.5


def test_goodput_counts_those_that_kept_every_limit_from_when_they_were_due() -> None:
    good = Sample(0.0, 0.1, 0.5, (0.2, 0.5), 10, 2)
    late = Sample(0.0, 0.9, 1.3, (1.0, 1.3), 10, 2)
    failed = Sample(0.0, 0.0, 0.0, error="reset")
    shown = summarize(Run((good, late, failed), 0, 2, slo=(("ttft", 0.5), ("e2e", 1.0))))
    assert shown.good_share == pytest.approx(1 / 3)
    assert shown.goodput_per_s == pytest.approx(0.5)


def test_joint_compliance_is_the_share_of_time_in_which_all_limits_held() -> None:
    fast = [Sample(t, t, t + 0.1, (t + 0.1,), 10, 1) for t in (0.0, 0.2, 1.0, 1.2)]
    slow = [Sample(2.0, 2.0, 2.9, (2.9,), 10, 1)]
    shown = summarize(Run((*fast, *slow), 0, 3, slo=(("ttft", 0.5),)))
    assert shown.joint_compliance == pytest.approx(2 / 3)


def test_a_client_that_was_the_limit_makes_the_run_invalid() -> None:
    sample = Sample(0, 0, 1, (0.5, 1.0))
    busy = summarize(Run((sample,), 0, 1, client={"busy": 0.97, "lag_p99_s": 0.0}))
    assert busy.suspect == ("invalid: the client was the limit, busy 97% of a core",)
    late = summarize(Run((sample,), 0, 1, client={"busy": 0.1, "lag_p99_s": 0.2}))
    assert "200.0 ms late" in late.suspect[0]


def test_a_ramp_rises_over_the_window_and_is_drawn_before_the_run() -> None:
    due = arrivals.ramp((2.0, 50.0), 10.0, 40.0, seed=3)
    assert due == arrivals.ramp((2.0, 50.0), 10.0, 40.0, seed=3) == sorted(due)
    count = [sum(a <= t < b for t in due) / (b - a) for a, b in ((0, 10), (28, 32), (50, 90))]
    assert count == pytest.approx([2, 26, 50], rel=0.25)


@pytest.mark.parametrize(
    "text", ["3\n3.5\n7\n", "at,size\n3,1\n3.5,2\n7,1\n", '{"at_s": 3}\n{"at_s": 3.5}\n{"time": 7}']
)
def test_a_trace_keeps_its_gaps_and_comes_again(tmp_path: Path, text: str) -> None:
    file = tmp_path / "trace"
    file.write_text(text)
    assert arrivals.traced(file, 0.5, 12.0) == pytest.approx([0, 0.5, 4, 6, 6.5, 10])
    assert arrivals.traced(file, 1.0, 3.0) == pytest.approx([0, 0.25, 2])


@pytest.mark.parametrize("text", ["", "5\n", "5\n5\n", "1\nsoon\n", '{"x": 1}\n{"x": 2}'])
def test_a_trace_without_times_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "trace"
    file.write_text(text)
    with pytest.raises(UsageError):
        arrivals.trace(file)


async def test_requests_arrive_as_the_trace_says(tmp_path: Path) -> None:
    file = tmp_path / "trace"
    file.write_text("0\n0.02\n0.2\n0.22\n")
    load = Workload(
        "w", 20, 2, rate_per_s=4 / (0.22 * 4 / 3), duration_s=0.6, trace=str(file.absolute())
    )
    async with scripted(completes) as server, server.session() as session:
        run = await session.observe(load)
    due = sorted(s.scheduled_s for s in run.samples)
    gaps = [b - a for a, b in pairwise(due)]
    assert gaps[:3] == pytest.approx([0.02, 0.18, 0.02], abs=1e-6)
    assert all(s.sent_s >= s.scheduled_s for s in run.samples)
