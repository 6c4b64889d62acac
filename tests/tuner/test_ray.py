"""Trials on a real Ray cluster of this host's own; skipped where Ray is not installed."""

import argparse
import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from tests.tuner.simulated import MACHINE, SimulatedBench, SimulatedSession, slots, subject
from vllama.cli import ray_bench, tune_shared
from vllama.cli.ray_bench import RayBench
from vllama.errors import EngineFailed, UsageError
from vllama.machine import GIB, Gpu
from vllama.profile import Profile
from vllama.tuner import samplers, study
from vllama.tuner.jobs import Way
from vllama.tuner.trial import Trial
from vllama.tuner.tuning import Budget, Tuning

GPUS = tuple(Gpu(i, "H100", f"GPU-{i}", 80 * GIB, 79 * GIB) for i in range(2))
TWO = replace(MACHINE, gpus=GPUS)


class Placed(SimulatedBench):
    """Tells as a fact in which process it is and which GPUs Ray gave to it."""

    @asynccontextmanager
    async def started(self, profile: Profile) -> AsyncIterator[SimulatedSession]:
        async with super().started(profile) as session:
            session.facts = {"pid": os.getpid(), "seen": os.environ["CUDA_VISIBLE_DEVICES"]}
            yield session


def make() -> SimulatedBench:
    def rate(options: object) -> float:
        if slots(options) == 1:  # type: ignore[arg-type]
            raise EngineFailed("too few slots", kind="out_of_memory", phase="load")
        return 1000 + 50 * min(slots(options), 10)  # type: ignore[arg-type]

    return Placed(rate)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


async def test_trials_run_in_actors_that_hold_the_gpus_they_need(cluster: None) -> None:
    about = subject()
    sampler = samplers.make("gp", about.space, 1, about.objective)
    opened = study.opened(study.MEMORY, about.study, about.space, about.objective, sampler)
    with opened as kept:
        local = SimulatedBench(lambda options: 1000 + 50 * min(slots(options), 10))
        tuning = Tuning(kept, local, about, TWO, Budget(4), way=Way(2, RayBench(make, TWO)))
        told = [e async for e in tuning.run() if isinstance(e, Trial)]
    fine = [t for t in told if t.complete]
    assert fine
    assert all(t.facts["pid"] != os.getpid() for t in fine)
    assert {t.facts["seen"] for t in fine} <= {"0", "1"}
    assert tuning.judged().options


async def test_how_an_engine_fell_there_is_known_here(cluster: None) -> None:
    with pytest.raises(EngineFailed, match="too few slots") as failed:
        async with RayBench(make, TWO).started(Profile("x", "llamacpp", "toy")) as session:
            await session.measure(subject().workloads[0])
    assert (failed.value.kind, failed.value.phase) == ("out_of_memory", "load")


async def test_what_needs_two_gpus_waits_for_both(cluster: None) -> None:
    bench = RayBench(make, TWO)
    wide = Profile("x", "vllm", "toy", {"tensor_parallel_size": 2, "n_parallel": 4})
    async with bench.started(Profile("x", "vllm", "toy", {"n_parallel": 4})):
        entering = asyncio.ensure_future(bench.started(wide).__aenter__())
        done, _ = await asyncio.wait({entering}, timeout=1.0)
        assert not done
    assert (await entering).facts["seen"] in {"0,1", "1,0"}


async def test_more_gpus_than_the_cluster_has_are_refused_at_once(cluster: None) -> None:
    with pytest.raises(EngineFailed, match="4 GPUs are asked for and the cluster has 2"):
        async with RayBench(make, TWO).started(
            Profile("x", "vllm", "toy", {"tensor_parallel_size": 4})
        ):
            pass


def test_without_a_cluster_it_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(UsageError, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        ray_bench.connect("127.0.0.1:1")


def test_lossy_options_are_not_compared_across_hosts() -> None:
    args = argparse.Namespace(
        worker=False, storage=None, fresh=False, engine=None, ray="auto", allow_lossy=True
    )
    with pytest.raises(UsageError, match="--allow-lossy does not go with --ray"):
        tune_shared.check(args)
