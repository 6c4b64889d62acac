"""Jobs: trials side by side, each on accelerators of its own."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from vllama.bench.measurement import Measurement
from vllama.bench.rig import Bench, Session
from vllama.bench.workload import Workload
from vllama.errors import EngineFailed, UsageError
from vllama.machine import Gpu, Machine
from vllama.profile import Profile, Scalar
from vllama.tuner.knob import count
from vllama.tuner.study import Ask
from vllama.tuner.trial import Trial

Next: TypeAlias = Callable[[int], Ask | None]
Climb: TypeAlias = Callable[[Ask], AsyncGenerator[Trial, None]]
# What hides the other accelerators from a process.
_VARIABLES = {"nvidia": "CUDA_VISIBLE_DEVICES", "amd": "HIP_VISIBLE_DEVICES"}
_SHARDS = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


@dataclass(frozen=True, slots=True)
class Way:
    """How a search is run: so many at once, on `bench` if on another than the finals.

    `only_searches` leaves finals and verdict to another worker of the same study.
    """

    jobs: int = 1
    bench: Bench | None = None
    only_searches: bool = False


def check(jobs: int, machine: Machine) -> None:
    """Whether so many trials can run side by side here.

    Raises:
        UsageError: they would disturb each other; says why.
    """
    if jobs < 1:
        raise UsageError("--jobs must be at least 1")
    if jobs == 1:
        return
    if not machine.gpus:
        raise UsageError(
            f"--jobs {jobs} needs a GPU for each trial, and there is none here",
            "Trials on one processor would measure each other: leave out --jobs.",
        )
    if jobs > len(machine.gpus):
        raise UsageError(
            f"--jobs {jobs} needs {jobs} GPUs, and {len(machine.gpus)} can be used here",
            f"Take --jobs {len(machine.gpus)} or fewer.",
        )
    if machine.gpus[0].vendor not in _VARIABLES:
        raise UsageError(f"--jobs is for NVIDIA and AMD GPUs, not {machine.gpus[0].vendor}'s")


def needed(options: Mapping[str, Scalar]) -> int:
    """How many accelerators a launch takes."""
    product = 1
    for name in _SHARDS:
        product *= max(1, count(options, name, 1))
    return product


class Bays:
    """The accelerators, each held by one trial at most; first come, first served.

    Nobody overtakes: else a launch over all of them would wait for ever.
    """

    def __init__(self, gpus: Sequence[Gpu]) -> None:
        self._free = list(gpus)
        self._all = len(gpus)
        self._queue: deque[tuple[int, asyncio.Future[tuple[Gpu, ...]]]] = deque()

    @asynccontextmanager
    async def taken(self, wanted: int) -> AsyncIterator[tuple[Gpu, ...]]:
        """So many that are nobody else's.

        Raises:
            EngineFailed: there are never so many.
        """
        if wanted > self._all:
            raise EngineFailed(
                f"{wanted} GPUs are asked for and there are {self._all}", kind="bad_option"
            )
        turn: asyncio.Future[tuple[Gpu, ...]] = asyncio.get_running_loop().create_future()
        self._queue.append((wanted, turn))
        self._serve()
        held: tuple[Gpu, ...] = ()
        try:
            held = await turn
            yield held
        finally:
            if not held and turn.done() and not turn.cancelled():
                held = turn.result()
            turn.cancel()
            self._free += held
            self._serve()

    def _serve(self) -> None:
        while self._queue:
            wanted, turn = self._queue[0]
            if not turn.done():
                if wanted > len(self._free):
                    return
                # Neighbours first: they are more often joined by fast links.
                self._free.sort(key=lambda gpu: gpu.index)
                turn.set_result(tuple(self._free[:wanted]))
                del self._free[:wanted]
            self._queue.popleft()


def _name(gpu: Gpu, at: int) -> str:
    """What the variable calls it: ROCm counts what it sees, CUDA knows slices by name only."""
    return gpu.uuid if gpu.is_slice else str(at if gpu.vendor == "amd" else gpu.index)


@dataclass(frozen=True, slots=True)
class _Seated:
    """A session that tells where it runs."""

    inner: Session
    gpus: str

    @property
    def endpoint(self) -> Any:
        return self.inner.endpoint

    @property
    def facts(self) -> Mapping[str, Scalar]:
        return {**self.inner.facts, "gpus": self.gpus}

    @property
    def start_s(self) -> float:
        return self.inner.start_s

    async def measure(self, workload: Workload) -> Measurement:
        return await self.inner.measure(workload)


class SideBySide:
    """A bench whose engines each see only the accelerators that they were given."""

    def __init__(self, bench: Bench, machine: Machine, environment: Mapping[str, str]) -> None:
        self._bench = bench
        self._bays = Bays(machine.gpus)
        self._variable = _VARIABLES[machine.gpus[0].vendor]
        listed = environment.get(self._variable, "")
        words = [word.strip() for word in listed.split(",")] if listed else []
        self._names = {
            (gpu.index, gpu.uuid): words[at] if at < len(words) else _name(gpu, at)
            for at, gpu in enumerate(machine.gpus)
        }

    @asynccontextmanager
    async def started(self, profile: Profile) -> AsyncIterator[Session]:
        """Wait for accelerators, then start on them."""
        async with self._bays.taken(needed(profile.options)) as gpus:
            names = ",".join(self._names[gpu.index, gpu.uuid] for gpu in gpus)
            # Without it CUDA counts the fastest card first, and everybody else by the bus.
            order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
            placed = {**profile.environment, **order, self._variable: names}
            async with self._bench.started(replace(profile, environment=placed)) as session:
                yield _Seated(session, names)


async def run(jobs: int, following: Next, climb: Climb) -> AsyncGenerator[Trial, None]:
    """Trials of up to `jobs` configurations at once, as they end.

    `following` is told how many are under way, and gives None when there is none to add.
    """
    if jobs == 1:
        while (ask := following(0)) is not None:
            async with aclosing(climb(ask)) as trials:
                async for trial in trials:
                    yield trial
        return
    async with _crew(climb) as crew:
        while True:
            while crew.working < jobs and (ask := following(crew.working)) is not None:
                crew.start(ask)
            if not crew.working:
                return
            for trial in await crew.news():
                yield trial


class _Crew:
    """Those who climb at the same time, and what they have to tell."""

    def __init__(self, climb: Climb) -> None:
        self._climb = climb
        self._told: asyncio.Queue[Trial | Exception | None] = asyncio.Queue()
        self.tasks: list[asyncio.Task[None]] = []
        self.working = 0

    def start(self, ask: Ask) -> None:
        """One more."""
        self.working += 1
        self.tasks.append(asyncio.create_task(self._work(ask)))

    async def news(self) -> list[Trial]:
        """A trial; or none where a climb is over."""
        event = await self._told.get()
        if isinstance(event, Exception):
            raise event
        if event is None:
            self.working -= 1
            return []
        return [event]

    async def _work(self, ask: Ask) -> None:
        try:
            async with aclosing(self._climb(ask)) as trials:
                async for trial in trials:
                    self._told.put_nowait(trial)
            self._told.put_nowait(None)
        except Exception as error:  # it is raised where the trials are waited for
            self._told.put_nowait(error)


@asynccontextmanager
async def _crew(climb: Climb) -> AsyncIterator[_Crew]:
    """Whoever still climbs at the end is called back, and has stopped its engine."""
    crew = _Crew(climb)
    try:
        yield crew
    finally:
        for task in crew.tasks:
            task.cancel()
        await asyncio.gather(*crew.tasks, return_exceptions=True)
