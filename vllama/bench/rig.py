"""The rig: starts an engine, loads it, and stops it. What the tuner and the commands hold."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from vllama.bench import counters, crew, energy, open_loop, steady
from vllama.bench.connection import Connection
from vllama.bench.crew import Crew, Task
from vllama.bench.dialect import Dialect
from vllama.bench.lag import Probe, quiet_collector, watched_clock
from vllama.bench.load import ClosedLoop
from vllama.bench.measurement import Measurement, Run, summarize, worst
from vllama.bench.memory import watched
from vllama.bench.open_loop import OpenLoop
from vllama.bench.prompts import Prompts
from vllama.bench.requests import Requests
from vllama.bench.wire import USUAL, Client
from vllama.bench.workload import Kind, Workload
from vllama.engines.engine import Endpoint, Engine, Fact
from vllama.errors import EngineFailed
from vllama.hardware import processor
from vllama.profile import Profile

_WARM_UP_REQUESTS = 2
_WARM_UP_TOKENS = 8


class Session(Protocol):
    """An engine that is up, and can be measured."""

    @property
    def endpoint(self) -> Endpoint:
        """Where it answers."""
        ...

    @property
    def facts(self) -> Mapping[str, Fact]:
        """What its start taught."""
        ...

    @property
    def start_s(self) -> float:
        """How long its start took."""
        ...

    async def measure(self, workload: Workload) -> Measurement:
        """Load it; raises EngineFailed when it dies or answers nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Fronted:
    """What stands before a session: all of it is the session's, but how it measures."""

    session: Session

    @property
    def endpoint(self) -> Endpoint:
        """Where it answers."""
        return self.session.endpoint

    @property
    def facts(self) -> Mapping[str, Fact]:
        """What its start taught."""
        return self.session.facts

    @property
    def start_s(self) -> float:
        """How long its start took."""
        return self.session.start_s


class Bench(Protocol):
    """What can start engines to be measured: the rig, or something that simulates one."""

    def started(self, profile: Profile) -> AbstractAsyncContextManager[Session]:
        """Start an engine; it is stopped on leaving."""
        ...


class Rig:
    """Starts `engine` and measures it."""

    def __init__(self, engine: Engine, client: Client = USUAL) -> None:
        self.engine = engine
        self.client = client

    @asynccontextmanager
    async def started(self, profile: Profile) -> "AsyncIterator[LiveSession]":
        """Start with `profile`.

        Raises:
            EngineMissing, EngineFailed: as the engine's start does.
        """
        async with self.engine.start(profile) as endpoint:
            session = LiveSession(endpoint, self.client)
            try:
                yield session
            finally:
                session.close()


class LiveSession:
    """A running engine under measurement.

    Each measurement of a workload gets prompts of its own, which depend on the workload's
    seed and on how often it was measured before: sessions that are measured in the same
    order get the same prompts, and none is ever answered from a prefix cache by accident.
    `cut_off` is what a measurement had when it was called off.
    """

    def __init__(self, endpoint: Endpoint, client: Client = USUAL) -> None:
        self.endpoint = endpoint
        self.client = client
        self.connection = Connection(endpoint, client.choice)
        self._warm: set[tuple[object, ...]] = set()
        self._measured: Counter[Workload] = Counter()
        self.cut_off: Run | None = None
        self._given: dict[Kind, Prompts] = {}

    @property
    def facts(self) -> Mapping[str, Fact]:
        return self.endpoint.facts

    @property
    def start_s(self) -> float:
        return self.endpoint.start_s

    def close(self) -> None:
        """Drop the connections to it."""
        self.connection.close()

    async def as_text(self, kind: Kind) -> Prompts:
        """Prompts that fit this server, as text."""
        return await self.connection.text_prompts(kind)

    def speak(self, kind: Kind, prompts: Prompts) -> None:
        """Use these prompts: those that other servers get."""
        self._given[kind] = prompts

    async def measure(self, workload: Workload) -> Measurement:
        """Warm up where this shape of load is new, then load and measure.

        Raises:
            EngineFailed: it died, or every single request failed.
        """
        return summarize(await self.observe(workload))

    async def observe(self, workload: Workload) -> Run:
        """As `measure`, with every sample."""
        await self.warm_up(workload)
        repetition = self._measured[workload]
        self._measured[workload] += 1
        run = await self._while_it_lives(
            self._load(workload.with_seed(_derived(workload.seed, repetition)))
        )
        if not any(s.error is None for s in run.samples):
            kinds = Counter(s.error for s in run.samples)
            raise EngineFailed(
                f"not one request was answered: {dict(kinds)}",
                "Look at the engine's log, or raise the workload's timeout_s.",
                kind="hang" if "timeout" in kinds else "crash",
                phase="run",
            )
        return run

    async def warm_up(self, workload: Workload) -> None:
        """Send a few requests of this shape, once."""
        if workload.shape in self._warm:
            return
        # Short answers: what is warmed are prompts and batches, and a slow server has many lanes.
        few = replace(
            workload,
            requests=_WARM_UP_REQUESTS,
            duration_s=None,
            rate_per_s=None,
            output_tokens=min(workload.output_tokens, _WARM_UP_TOKENS),
        ).with_seed(_derived(workload.seed, -1))
        await self._while_it_lives(self._load(few, alone=True))
        self._warm.add(workload.shape)
        await self.reset_prefix_cache()

    async def unload(self) -> None:
        """Make an Ollama that goes on running give its memory to the next in turn."""
        if self.endpoint.api == "ollama":
            body = {"model": self.endpoint.model, "keep_alive": 0, "stream": False}
            await self.connection.post("/api/generate", body)

    async def reset_prefix_cache(self) -> None:
        """Forget cached prefixes, where the server can be told to."""
        if "vllm" in (self.endpoint.engine, self.endpoint.facts.get("engine")):
            await self.connection.post("/reset_prefix_cache", {})

    async def _load(self, workload: Workload, *, alone: bool = False) -> Run:
        dialect = await self.connection.dialect(workload.kind, workload.asks)
        given = self._given.get(workload.kind)
        prompts = given or await self.connection.prompts(workload.kind)
        before = await self.connection.counters()
        loop = self._loop(dialect, prompts, workload, alone=alone)
        pids = self.endpoint.life.pids
        energy_before = await asyncio.to_thread(energy.counted, pids)
        async with watched(pids) as peak, watched_clock() as probe:
            try:
                with quiet_collector():
                    run = await loop.run()
            except asyncio.CancelledError:
                so_far = loop.result()
                self.cut_off = so_far if any(s.measured for s in so_far.samples) else None
                raise
        energy_after = await asyncio.to_thread(energy.counted, pids)
        counted = counters.between(before, await self.connection.counters())
        counted |= energy.between(energy_before, energy_after, run)
        doubts = (
            counters.doubt(counted, workload.prompt_tokens, *_shared_tokens(workload)),
            steady.doubt(run, workload),
            await self.connection.doubt(run.said),
        )
        return replace(
            run,
            counters=counted,
            suspect=tuple(filter(None, doubts)),
            peak_memory_bytes=peak.highest_bytes,
            slo=workload.slo,
            client=self._client_figures(run, probe),
        )

    def _client_figures(self, run: Run, probe: Probe) -> dict[str, float]:
        """How the client fared: here, and in its other processes where there are some."""
        figures = worst((run, replace(run, client=probe.figures())))
        if self.client.chunk_cost_s:
            figures["chunk_cost_s"] = self.client.chunk_cost_s
        return figures

    def _loop(
        self, dialect: Dialect, prompts: Prompts, workload: Workload, *, alone: bool
    ) -> ClosedLoop | OpenLoop | Crew:
        pool = self.connection.pool
        of = crew.members(workload, self.client, processor.ask(Path("/")).cores)
        if of and not alone:
            task = Task(self.endpoint.base_url, self.client.choice, dialect, prompts, workload)
            return Crew(task, of)
        if workload.rate_per_s is not None:
            expected = int(2.2 * workload.rate_per_s * open_loop.duration_s(workload))
            return OpenLoop(Requests(pool, dialect, prompts, workload, expected), workload)
        expected = (workload.request_goal or 0) + 2 * workload.concurrency
        return ClosedLoop(Requests(pool, dialect, prompts, workload, expected), workload)

    async def _while_it_lives(self, work: Coroutine[None, None, Run]) -> Run:
        """Await `work`, or stop it when the engine dies."""
        task: asyncio.Task[Run] = asyncio.create_task(work)
        death = asyncio.ensure_future(self.endpoint.life.ended())
        try:
            await asyncio.wait((task, death), return_when=asyncio.FIRST_COMPLETED)
            if death.done():
                raise death.result()
            return task.result()
        finally:
            for each in (task, death):
                each.cancel()
            await asyncio.gather(task, death, return_exceptions=True)


def _shared_tokens(workload: Workload) -> tuple[int, int]:
    """What every prompt shares, and the most that a cache may know (of a later turn, all)."""
    if workload.turns > 1 or workload.dataset or workload.replay:
        return 0, workload.prompt_tokens
    return workload.shared_prefix_tokens, workload.shared_prefix_tokens


def _derived(seed: int, repetition: int) -> int:
    return seed * 1_000_003 + repetition + 1
