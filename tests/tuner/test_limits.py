"""Capacity under limits, workloads that a profile must not lose on, drift, and the budget."""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from tests.tuner.simulated import (
    LOAD,
    MACHINE,
    Clock,
    SimulatedBench,
    SimulatedSession,
    measurement,
    slots,
    subject,
)
from vllama.bench.measurement import Measurement
from vllama.bench.workload import Workload
from vllama.engines.engine import Endpoint, Immortal
from vllama.profile import Profile, Scalar
from vllama.tuner import capacity, drift, samplers, slo, study
from vllama.tuner.capacity import CapacitySession
from vllama.tuner.objective import Objective
from vllama.tuner.subject import Subject
from vllama.tuner.trial import Trial
from vllama.tuner.tuning import Budget, Tuning

LIMITS = (slo.parse("ttft_p99=500ms"), slo.parse("tpot_mean=1s"))


@dataclass
class Server:
    """Keeps its limits up to `most` in flight (or a second), and counts how often it is asked."""

    most: float
    asked: list[float] = field(default_factory=list)
    start_s: float = 1.0
    facts: Mapping[str, Scalar] = field(default_factory=dict)
    endpoint: Endpoint = field(default_factory=lambda: Endpoint("http://x", "m", "", Immortal()))

    async def measure(self, workload: Workload) -> Measurement:
        level = workload.rate_per_s or float(workload.concurrency)
        self.asked.append(level)
        assert dict(workload.slo) == {"ttft": 0.5}
        good = level <= self.most
        shown = measurement(100 * min(level, self.most), ttft_s=0.1)
        share = 1.0 if good else 0.7
        return replace(shown, joint_compliance=share, goodput_per_s=share * shown.requests_per_s)


@pytest.mark.parametrize("most", [1, 7, 10, 23, 64, 97])
async def test_capacity_is_the_highest_level_that_holds_within_5_percent_in_8_probes(
    most: int,
) -> None:
    server = Server(most)
    found = await CapacitySession(server, Objective("capacity", LIMITS)).measure(LOAD)
    level = found.counters[capacity.LEVEL]
    assert level <= most
    assert most <= max(level * capacity.NEAR, level + 1) or len(server.asked) == capacity.PROBES
    assert most <= 1.2 * level
    assert len(server.asked) <= capacity.PROBES
    assert found.joint_compliance == 1.0


async def test_capacity_of_open_arrivals_is_a_rate() -> None:
    server = Server(13.7)
    load = replace(LOAD, rate_per_s=4.0)
    found = await CapacitySession(server, Objective("capacity", LIMITS)).measure(load)
    assert 13.7 / capacity.NEAR <= found.counters[capacity.LEVEL] <= 13.7


async def test_a_server_that_keeps_no_level_cannot_be_used() -> None:
    objective = Objective("capacity", LIMITS)
    found = await CapacitySession(Server(0.5), objective).measure(LOAD)
    assert found.counters[capacity.LEVEL] == 1
    assert not objective.holds({LOAD.name: found})


async def tuned(
    bench: SimulatedBench, about: Subject, trials: int = 8, *, ablate: bool = False
) -> Tuning:
    made = samplers.make("tpe", about.space, 1, about.objective)
    with study.opened(study.MEMORY, about.study, about.space, about.objective, made) as kept:
        tuning = Tuning(kept, bench, about, MACHINE, Budget(trials), bench.clock, ablate=ablate)
        async for _ in tuning.run():
            pass
    return tuning


class PerLoad(SimulatedBench):
    """`gains` says by workload how much faster more slots are than the default."""

    def __init__(self, gains: Mapping[str, float]) -> None:
        super().__init__(lambda _: 1000.0, noise=0.002, seed=4)
        self.gains = gains

    @asynccontextmanager
    async def started(self, profile: Profile) -> AsyncIterator[SimulatedSession]:
        async with super().started(profile) as session:
            gains = self.gains if slots(profile.options) > 1 else {}
            yield PerLoadSession(self, profile, session.drift, gains=gains)


@dataclass
class PerLoadSession(SimulatedSession):
    gains: Mapping[str, float] = field(default_factory=dict)

    async def measure(self, workload: Workload) -> Measurement:
        self.bench.clock.now += workload.duration_s or 1.0
        gain = self.gains.get(workload.name, 1.0)
        return measurement(1000 * gain * (1 + self.bench.random.gauss(0, self.bench.noise)))


LOADS = (replace(LOAD, name="a"), replace(LOAD, name="b"))


async def test_what_loses_on_one_of_the_workloads_does_not_win_by_the_others() -> None:
    about = subject(None, *LOADS)
    tuning = await tuned(PerLoad({"a": 2.0, "b": 0.9}), about)
    verdict = tuning.judged()
    assert verdict.options == {}
    assert all(not s.profile.options for s in tuning.selected().values())


async def test_what_is_better_on_one_and_as_good_on_the_other_wins() -> None:
    tuning = await tuned(PerLoad({"a": 1.5, "b": 1.0}), subject(None, *LOADS))
    assert slots(tuning.judged().options) > 1


async def test_the_default_is_measured_again_and_a_drift_is_corrected_and_told() -> None:
    bench = SimulatedBench(lambda o: 1000 + 50 * min(slots(o), 10))
    rate = bench.rate
    bench.rate = lambda o: rate(o) * (1 - 0.01 * len(bench.launched))
    about = subject()
    tuning = await tuned(bench, about, trials=16)
    controls = [t for t in tuning.trials if t.origin == drift.CONTROL]
    assert len(controls) == 1
    found = drift.of(tuning.trials, about.objective)
    assert found.worst < -0.05
    assert "drifted" in found.words
    straight = [
        about.objective.value(t.measurements) - found.at(t.number)
        for t in tuning.trials
        if slots(t.options) == 10
    ]
    assert len(straight) > 2
    assert max(straight) - min(straight) < 0.02


def test_a_machine_that_does_not_drift_corrects_nothing() -> None:
    steady = [
        Trial(i, {}, "complete", {"a": measurement(rate)}) for i, rate in enumerate((1000, 1005))
    ]
    found = drift.of(steady, Objective("throughput"))
    assert (found.worst, found.words, found.at(1)) == (0.0, "", 0.0)


async def test_one_setting_at_a_time_is_put_back_and_what_did_nothing_is_named() -> None:
    bench = SimulatedBench(lambda o: 1000 + 50 * min(slots(o), 10))
    tuning = await tuned(bench, subject(), ablate=True)
    found = {a.option: a for a in tuning.ablated}
    assert found["n_parallel"].verdict == "matters"
    assert found["n_parallel"].ratio is not None
    assert math.isclose(found["n_parallel"].ratio, 1050 / 1500, rel_tol=0.01)
    assert all(a.verdict == "no difference" for n, a in found.items() if n != "n_parallel")
    assert set(found) == {
        k.name
        for k in tuning.subject.space.knobs
        if tuning.subject.space.choice(tuning.judged().options)[k.name]
        != tuning.subject.space.choice({})[k.name]
    }


class Stuck(SimulatedBench):
    """Hangs in the start of everything but the default."""

    @asynccontextmanager
    async def started(self, profile: Profile) -> AsyncIterator[SimulatedSession]:
        if profile.options:
            await asyncio.Event().wait()
        async with super().started(profile) as session:
            yield session


async def test_a_start_that_hangs_does_not_outlast_the_budget() -> None:
    import time

    about = subject(None, replace(LOAD, duration_s=0.01))
    bench = Stuck(lambda _: 1000.0)
    made = samplers.make("tpe", about.space, 1, about.objective)
    with study.opened(study.MEMORY, about.study, about.space, about.objective, made) as kept:
        tuning = Tuning(kept, bench, about, MACHINE, Budget(8, 0.5), time.monotonic)
        events = [e async for e in tuning.run()]
    assert len(events) == 1
    assert "in the middle of a trial" in tuning.stopped
    assert tuning.trials[0].complete


@pytest.mark.parametrize("seconds", [40.0, 90.0, 300.0, 1200.0])
@pytest.mark.parametrize("start_s", [0.5, 5.0])
async def test_a_budget_is_kept_within_a_tenth_and_used(seconds: float, start_s: float) -> None:
    bench = SimulatedBench(
        lambda o: 1000 + 50 * min(slots(o), 10), start_s=start_s, noise=0.01, start_noise=0.007
    )
    about = subject()
    made = samplers.make("gp", about.space, 1, about.objective)
    with study.opened(study.MEMORY, about.study, about.space, about.objective, made) as kept:
        tuning = Tuning(kept, bench, about, MACHINE, Budget(1000, seconds), bench.clock)
        etas = []
        async for event in tuning.run():
            if isinstance(event, Trial):
                etas.append((bench.clock.now, tuning.eta_s))
    assert bench.clock.now <= 1.1 * seconds
    # Where a start is an eighth of all the time there is, trials are worth more than a proof.
    assert tuning.blocks or seconds < 10 * start_s
    assert tuning.stopped
    assert all(eta is None or now + eta <= 1.1 * seconds for now, eta in etas)


async def test_the_time_that_is_announced_is_the_time_that_it_takes() -> None:
    bench = SimulatedBench(lambda o: 1000 + slots(o), start_s=3.0, noise=0.01, start_noise=0.007)
    about = subject()
    made = samplers.make("random", about.space, 1, about.objective)
    with study.opened(study.MEMORY, about.study, about.space, about.objective, made) as kept:
        tuning = Tuning(kept, bench, about, MACHINE, Budget(20), bench.clock)
        announced = []
        async for event in tuning.run():
            if isinstance(event, Trial) and tuning.eta_s is not None:
                announced.append(bench.clock.now + tuning.eta_s)
    assert abs(announced[len(announced) // 2] / bench.clock.now - 1) < 0.1
    assert isinstance(bench.clock, Clock)
