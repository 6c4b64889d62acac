"""Capacity: the most load under which every limit still holds, searched on one start.

It stands before a bench as a bench. What it measures of a workload is the highest level
(requests in flight; requests a second where arrivals are open) that keeps the limits: p99
limits together, 99 % of the requests in 99 % of the time, others as quantiles of the run.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from vllama.bench.capacity import NEAR, PROBES, at, following, level_of
from vllama.bench.measurement import Measurement
from vllama.bench.rig import Bench, Fronted
from vllama.bench.workload import Workload
from vllama.profile import Profile
from vllama.tuner.objective import Objective

__all__ = ["LEVEL", "NEAR", "PROBES", "CapacityBench", "CapacitySession", "over"]
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
        level, began = level_of(workload), time.monotonic()
        for _ in range(PROBES):
            measured = await self._probe(workload, level)
            if self.objective.holds({workload.name: measured}):
                held = level, measured
            else:
                broke = level, measured
            found = following(workload, held and held[0], broke and broke[0])
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
        load = replace(at(workload, level), requests=None, duration_s=seconds, slo=limits)
        return await self.session.measure(load)
