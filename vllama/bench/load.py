"""A closed loop of requests, kept up around the window in which it is measured."""

import asyncio
from time import perf_counter

from vllama.bench.measurement import Run
from vllama.bench.requests import Answered, Requests, ended, run_of
from vllama.bench.transcript import Transcript
from vllama.bench.workload import Workload

# A server that refuses must not be hammered, nor the machine kept busy with refusals.
_BACKOFF_S = 0.05
_LONGEST_BACKOFF_S = 2.0
# A loop's clock counts whole milliseconds from its last turn: it may wake one too early.
_CLOCK_S = 0.002


class ClosedLoop:
    """Keeps `workload.concurrency` requests in flight.

    The first of each lane warms up and gets an answer of another length each, so that the
    lanes do not march in step. When the first of them ends the window opens. Requests go on
    being sent until all that are measured have ended: the load is whole all the time.
    """

    def __init__(self, requests: Requests, workload: Workload) -> None:
        self._requests = requests
        self._workload = workload
        self._log: list[Answered] = []
        self._measured = 0
        self._open = 0
        self._start_s: float | None = None
        self._end_s = 0.0

    async def run(self) -> Run:
        """The whole load; its answers are read after it has ended."""
        lanes = [asyncio.create_task(self._lane(i)) for i in range(self._workload.concurrency)]
        try:
            await asyncio.gather(*lanes)
        finally:
            await ended(lanes)
        return self.result()

    def result(self) -> Run:
        """What has been measured so far."""
        return run_of(self._log, self._requests.reader, self._start_s or 0.0, self._end_s)

    async def _lane(self, lane: int) -> None:
        await self._one(measured=False, output_tokens=self._staggered(lane))
        if self._start_s is None:
            self._start_s = perf_counter()
        while not self._finished():
            transcript = await self._one(measured=self._wants_more())
            if transcript.error is not None:
                wait_s = max(_BACKOFF_S, min(transcript.retry_after_s, _LONGEST_BACKOFF_S))
                await asyncio.sleep(wait_s + _CLOCK_S)

    async def _one(self, *, measured: bool, output_tokens: int | None = None) -> Transcript:
        asked = self._requests.take(output_tokens)
        self._measured += measured
        self._open += measured
        scheduled_s = perf_counter()
        transcript = await self._requests.send(asked)
        self._open -= measured
        if measured:
            self._end_s = perf_counter()
        self._log.append(Answered(asked, transcript, scheduled_s, measured))
        return transcript

    def _wants_more(self) -> bool:
        goal = self._workload.request_goal
        if goal is not None and self._measured >= goal:
            return False
        return not self._time_is_up()

    def _finished(self) -> bool:
        return self._open == 0 and not self._wants_more()

    def _time_is_up(self) -> bool:
        limit_s, started_s = self._workload.duration_s, self._start_s
        return (
            limit_s is not None and started_s is not None and perf_counter() - started_s >= limit_s
        )

    def _staggered(self, lane: int) -> int:
        lanes = self._workload.concurrency
        return max(1, round(self._workload.output_tokens * (lanes - lane) / lanes))
