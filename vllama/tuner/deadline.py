"""Deadline: nothing that a budget pays for goes on for long after it, however slow it is."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from vllama.bench.measurement import Measurement
from vllama.bench.rig import Bench, Fronted
from vllama.bench.workload import Workload
from vllama.profile import Profile


class OutOfTimeError(Exception):
    """The budget ended in the middle of a start or a measurement."""


@dataclass(frozen=True, slots=True)
class TimedBench:
    """Starts what `bench` starts; gives up at `left_s`, and begins nothing that cannot end."""

    bench: Bench
    left_s: Callable[[], float]

    @asynccontextmanager
    async def started(self, profile: Profile) -> "AsyncIterator[TimedSession]":
        """Start, as the bench below does.

        Raises:
            OutOfTimeError: no time was left, or it ran out during the start.
        """
        async with AsyncExitStack() as stack:
            async with _within(self.left_s()):
                session = await stack.enter_async_context(self.bench.started(profile))
            yield TimedSession(session, self.left_s)


@dataclass(frozen=True, slots=True)
class TimedSession(Fronted):
    """A running engine that is measured only while there is time."""

    left_s: Callable[[], float]

    async def measure(self, workload: Workload) -> Measurement:
        """Measure, as the session below does.

        Raises:
            OutOfTimeError: it would not end in time, or did not.
        """
        left_s = self.left_s()
        if (workload.duration_s or 0.0) > left_s:
            raise OutOfTimeError
        async with _within(left_s):
            return await self.session.measure(workload)


@asynccontextmanager
async def _within(left_s: float) -> AsyncIterator[None]:
    if left_s <= 0:
        raise OutOfTimeError
    limit = asyncio.timeout(left_s if math.isfinite(left_s) else None)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if limit.expired():
            raise OutOfTimeError from error
        raise
