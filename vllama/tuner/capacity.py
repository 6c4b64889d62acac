"""Capacity: the most load under which every limit still holds, searched on one start.

It stands before a bench as a bench. What it measures of a workload is the highest level
(requests in flight; requests a second where arrivals are open) that keeps the limits: p99
limits together, 99 % of the requests in 99 % of the time, others as quantiles of the run.
"""

import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from vllama.bench.measurement import Measurement
from vllama.bench.rig import Bench, Fronted
from vllama.bench.workload import Workload
from vllama.profile import Profile
from vllama.tuner.objective import Objective

PROBES = 8
NEAR = 1.05
# Under which name the level that held is kept with a measurement's counters.
LEVEL = "capacity_level"
_SHORTEST_S = 2.0
# Warming up each new level takes its time too; on a slow machine there are fewer probes.
_GRACE_S = 10.0


@dataclass(frozen=True, slots=True)
class CapacityBench:
    """Starts what `bench` starts; measures capacity within the limits of `objective`."""

    bench: Bench
    objective: Objective

    @asynccontextmanager
    async def started(self, profile: Profile) -> "AsyncIterator[CapacitySession]":
        """Start, as the bench below does."""
        async with self.bench.started(profile) as session:
            yield CapacitySession(session, self.objective)


def over(bench: Bench, objective: Objective) -> Bench:
    """The bench that an objective needs: this one for `capacity`, else `bench` itself."""
    return CapacityBench(bench, objective) if objective.name == "capacity" else bench


@dataclass(frozen=True, slots=True)
class CapacitySession(Fronted):
    """A running engine whose capacity is measured."""

    objective: Objective

    async def measure(self, workload: Workload) -> Measurement:
        """The measurement at the highest level that holds; the lowest one's where none does.

        Doubles or halves from the workload's own level, then bisects, in at most 8 probes.
        """
        held: tuple[float, Measurement] | None = None
        broke: tuple[float, Measurement] | None = None
        level, began = _level(workload), time.monotonic()
        for _ in range(PROBES):
            measured = await self._probe(workload, level)
            if self.objective.holds({workload.name: measured}):
                held = level, measured
            else:
                broke = level, measured
            found = _next(workload, held and held[0], broke and broke[0])
            late_s = time.monotonic() - began
            if found is None or late_s > 2 * (workload.duration_s or 0.0) + _GRACE_S:
                break
            level = found
        level, measured = held or broke or (level, measured)
        return replace(measured, counters={**measured.counters, LEVEL: level})

    async def _probe(self, workload: Workload, level: float) -> Measurement:
        seconds = max((workload.duration_s or 0.0) / 3, _SHORTEST_S)
        limits = tuple(
            (s.metric, s.limit_s)
            for s in self.objective.limits
            if s.quantile == "p99" and s.metric in ("ttft", "tpot", "e2e")
        )
        load = replace(_at(workload, level), requests=None, duration_s=seconds, slo=limits)
        return await self.session.measure(load)


def _level(workload: Workload) -> float:
    return workload.rate_per_s or float(workload.concurrency)


def _at(workload: Workload, level: float) -> Workload:
    if workload.rate_per_s:
        return replace(workload, rate_per_s=level)
    return replace(workload, concurrency=round(level))


def _next(workload: Workload, held: float | None, broke: float | None) -> float | None:
    """Where to look next; None when the answer is near enough."""
    whole = not workload.rate_per_s
    if held is None:
        lower = (broke or 1.0) / 2
        return None if whole and lower < 1 else float(round(lower)) if whole else lower
    if broke is None:
        return 2 * held
    if broke <= NEAR * held or (whole and broke - held <= 1):
        return None
    middle = math.sqrt(held * broke)
    return float(min(max(round(middle), held + 1), broke - 1)) if whole else middle
