"""Trials side by side: GPUs are nobody else's meanwhile, and the finals are run alone."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from tests.tuner.simulated import MACHINE, SimulatedBench, SimulatedSession, slots, subject
from vllama.errors import EngineFailed, UsageError
from vllama.machine import GIB, Gpu
from vllama.profile import Profile
from vllama.tuner import jobs, samplers, study
from vllama.tuner.jobs import Bays, SideBySide, Way
from vllama.tuner.trial import Trial, key
from vllama.tuner.tuning import Budget, Tuning

GPUS = tuple(Gpu(i, "H100", f"GPU-{i}", 80 * GIB, 79 * GIB) for i in range(4))
FOUR = replace(MACHINE, gpus=GPUS)


class Slow(SimulatedBench):
    """Notes which GPUs are in use at the same time; a start lasts a few turns of the loop."""

    def __init__(self) -> None:
        super().__init__(lambda options: 1000 + 50 * min(slots(options), 10))
        self.now: list[set[str]] = []
        self.most = 0
        self.placed: list[str] = []
        self.clashes = 0

    @asynccontextmanager
    async def started(self, profile: Profile) -> AsyncIterator[SimulatedSession]:
        mine = set(profile.environment.get("CUDA_VISIBLE_DEVICES", "all").split(","))
        self.clashes += any(mine & theirs for theirs in self.now)
        self.now.append(mine)
        self.placed.append(",".join(sorted(mine)))
        self.most = max(self.most, len(self.now))
        try:
            for _ in range(3):
                await asyncio.sleep(0)
            async with super().started(profile) as session:
                yield session
        finally:
            self.now.remove(mine)


async def tune(bench: Slow, count: int, trials: int = 9) -> tuple[Tuning, list[Trial]]:
    about = subject()
    sampler = samplers.make("gp", about.space, 1, about.objective)
    opened = study.opened(study.MEMORY, about.study, about.space, about.objective, sampler)
    with opened as kept:
        way = Way(count, SideBySide(bench, FOUR, {}))
        tuning = Tuning(kept, bench, about, FOUR, Budget(trials), bench.clock, way=way)
        told = [e async for e in tuning.run() if isinstance(e, Trial)]
    return tuning, told


async def test_trials_run_at_once_on_disjoint_gpus_and_are_all_kept() -> None:
    bench = Slow()
    tuning, told = await tune(bench, 3)
    assert bench.most == 3
    assert bench.clashes == 0
    own = [t for t in told if t.origin != "control"]
    assert len(own) == 9
    assert len({key(t.options) for t in own}) == 9
    assert {t.facts["gpus"] for t in told} >= {"0", "1", "2"}
    assert sorted(t.number for t in told) == [t.number for t in tuning.trials]
    assert not bench.now


async def test_the_finals_are_run_alone() -> None:
    bench = Slow()
    tuning, told = await tune(bench, 4)
    assert tuning.blocks
    assert set(bench.placed[len(told) :]) == {"all"}
    assert slots(tuning.judged().options) == 10


async def test_a_launch_over_several_gpus_takes_them_and_is_not_overtaken() -> None:
    bays = Bays(GPUS)
    order: list[str] = []

    async def use(name: str, wanted: int) -> None:
        async with bays.taken(wanted) as gpus:
            assert len(gpus) == wanted
            order.append(name)
            await asyncio.sleep(0)

    first, second = use("one", 1), use("two", 2)
    await asyncio.gather(first, second, use("all", 4), use("late", 1))
    assert order == ["one", "two", "all", "late"]


async def test_who_gives_up_waiting_gives_the_place_to_the_next() -> None:
    bays = Bays(GPUS[:1])
    async with bays.taken(1):
        waiting = asyncio.create_task(_hold(bays))
        other = asyncio.create_task(_hold(bays))
        await asyncio.sleep(0)
        waiting.cancel()
    assert (await other)[0].index == 0


async def _hold(bays: Bays) -> tuple[Gpu, ...]:
    async with bays.taken(1) as gpus:
        return gpus


async def test_more_gpus_than_there_are_is_a_failed_trial() -> None:
    with pytest.raises(EngineFailed, match="8 GPUs are asked for and there are 4"):
        async with Bays(GPUS).taken(8):
            pass


def test_a_launch_takes_the_product_of_its_parallel_sizes() -> None:
    assert jobs.needed({}) == 1
    assert jobs.needed({"tensor_parallel_size": 2, "pipeline_parallel_size": 2}) == 4


async def test_gpus_that_are_hidden_from_us_are_hidden_from_trials() -> None:
    bench = Slow()
    two = replace(FOUR, gpus=GPUS[2:])
    async with SideBySide(bench, two, {"CUDA_VISIBLE_DEVICES": "2,3"}).started(
        Profile("t", "vllm", "toy", options={"tensor_parallel_size": 2})
    ) as session:
        assert session.facts["gpus"] == "2,3"


async def test_an_error_in_one_ends_all_and_stops_their_engines() -> None:
    bench = Slow()

    def fall() -> None:
        if bench.measured == 4:
            raise ValueError("a bug")

    bench.before_measuring = fall
    with pytest.raises(ValueError, match="a bug"):
        await tune(bench, 3)
    assert not bench.now
    assert bench.live == 0


@pytest.mark.parametrize(
    ("count", "machine", "why"),
    [
        (2, MACHINE, "there is none here"),
        (5, FOUR, "5 GPUs, and 4"),
        (0, FOUR, "at least 1"),
        (2, replace(FOUR, gpus=tuple(replace(g, vendor="apple") for g in GPUS)), "apple"),
    ],
)
def test_what_cannot_be_run_side_by_side_is_refused_in_words(
    count: int, machine: object, why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        jobs.check(count, machine)  # type: ignore[arg-type]


def test_one_at_a_time_is_always_possible() -> None:
    jobs.check(1, MACHINE)
    assert math.isfinite(MACHINE.memory_bytes)
