"""An open loop: requests leave when they are due, however slow the server is.

A closed loop sends fewer requests to a slow server and so hides its queue; here the latency
of a request counts from the moment it was due.
"""

import asyncio
from pathlib import Path
from time import perf_counter

from vllama.bench import arrivals, replay
from vllama.bench.measurement import Run
from vllama.bench.requests import WHOLE, Answered, Requests, Share, ended, run_of
from vllama.bench.workload import Workload

_WARM_UP_SHARE = 0.2
_LONGEST_WARM_UP_S = 10.0
# The loop's timers count whole milliseconds: the last two are waited for by looking.
_LOOK_S = 0.002
DEFAULT_DURATION_S = 30.0


class OpenLoop:
    """Sends by the clock. The arrivals before the window warm up; those after it keep the load
    whole until the last measured one has ended, though not for longer than the window."""

    def __init__(self, requests: Requests, workload: Workload, share: Share = WHOLE) -> None:
        if workload.rate_per_s is None:
            raise ValueError("an open loop needs a rate")
        self._requests = requests
        self._window_s = duration_s(workload)
        self._warm_s = min(_WARM_UP_SHARE * self._window_s, _LONGEST_WARM_UP_S)
        due = _due(workload, workload.rate_per_s, self._warm_s, self._window_s)
        self._due = due[share.number :: share.of]
        self._log: list[Answered] = []
        self._open = 0
        self._start_s = 0.0

    async def run(self, begun_s: float | None = None) -> Run:
        """The whole load, from now or a given moment; answers are read after it has ended."""
        begun_s = perf_counter() if begun_s is None else begun_s
        self._start_s = begun_s + self._warm_s
        tasks: set[asyncio.Task[None]] = set()
        try:
            for offset_s in self._due:
                due_s = begun_s + offset_s
                if due_s >= self._end_s and self._open == 0:
                    break
                await _until(due_s)
                measured = self._start_s <= due_s < self._end_s
                self._open += measured
                task = asyncio.create_task(self._one(due_s, measured=measured))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            while self._open and tasks:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await _until(self._end_s)
        finally:
            await ended(list(tasks))
        return self.result()

    @property
    def _end_s(self) -> float:
        return self._start_s + self._window_s

    def result(self) -> Run:
        """What has been measured so far."""
        end_s = min(self._end_s, perf_counter())
        return run_of(self._log, self._requests.reader, self._start_s, end_s)

    async def _one(self, due_s: float, *, measured: bool) -> None:
        asked = self._requests.take()
        try:
            transcript = await self._requests.send(asked)
            self._log.append(Answered(asked, transcript, due_s, measured))
        finally:
            self._open -= measured


def duration_s(workload: Workload) -> float:
    """The length of the window: as given, or as long as its requests take to arrive."""
    if workload.duration_s is not None:
        return workload.duration_s
    if workload.requests is not None and workload.rate_per_s:
        return workload.requests / workload.rate_per_s
    return DEFAULT_DURATION_S


def _due(workload: Workload, rate_per_s: float, warm_s: float, window_s: float) -> list[float]:
    whole_s = warm_s + 2 * window_s
    if workload.replay:
        return replay.due(workload, whole_s)
    if workload.trace:
        return arrivals.traced(Path(workload.trace), rate_per_s, whole_s)
    if workload.rate_to_per_s is not None:
        rates = (rate_per_s, workload.rate_to_per_s)
        return arrivals.ramp(rates, warm_s, window_s, seed=workload.seed)
    return arrivals.draw(
        workload.arrivals, rate_per_s, whole_s, cv=workload.cv, seed=workload.seed
    )  # fmt: skip


async def _until(moment_s: float) -> None:
    left_s = moment_s - perf_counter()
    if left_s > _LOOK_S:
        await asyncio.sleep(left_s - _LOOK_S)
    while perf_counter() < moment_s:  # noqa: ASYNC110 - a moment is no event
        await asyncio.sleep(0)
