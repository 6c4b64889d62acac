"""A closed loop of requests, kept up around the window in which it is measured."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import perf_counter

from vllama.bench.answers import read
from vllama.bench.connection import Connection
from vllama.bench.dialect import Dialect
from vllama.bench.measurement import Run, Sample
from vllama.bench.prompts import Prompts
from vllama.bench.transcript import Transcript, exchange
from vllama.bench.workload import Workload

# A server that refuses must not be hammered, nor the machine kept busy with refusals.
_BACKOFF_S = 0.05
_LONGEST_BACKOFF_S = 2.0
_READY_REQUESTS = 2_000


@dataclass(slots=True)
class _Sent:
    scheduled_s: float
    measured: bool
    asked_prompt_tokens: int
    asked_output_tokens: int
    transcript: Transcript


@dataclass
class ClosedLoop:
    """Keeps `workload.concurrency` requests in flight.

    The first of each lane warms up and gets an answer of another length each, so that the
    lanes do not march in step. When the first of them ends the window opens. Requests go on
    being sent until all that are measured have ended: the load is whole all the time.
    """

    connection: Connection
    dialect: Dialect
    prompts: Prompts
    workload: Workload
    now: Callable[[], float] = perf_counter
    _sent: list[_Sent] = field(default_factory=list)
    _next: int = 0
    _measured: int = 0
    _open: int = 0
    _start_s: float | None = None
    _end_s: float = 0.0

    async def run(self) -> Run:
        """The whole load; its samples are read after it has ended."""
        self._prepare()
        lanes = [asyncio.create_task(self._lane(i)) for i in range(self.workload.concurrency)]
        try:
            await asyncio.gather(*lanes)
        finally:
            for lane in lanes:
                lane.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)
        return self.result()

    def result(self) -> Run:
        """What has been measured so far."""
        reader = self.dialect.reader(stream=self.workload.stream)
        samples = tuple(
            _sample(sent, read(sent.transcript, sent.scheduled_s, reader)) for sent in self._sent
        )
        start_s = self._start_s if self._start_s is not None else 0.0
        return Run(samples, start_s, max(self._end_s, start_s))

    async def _lane(self, lane: int) -> None:
        await self._one(measured=False, output_tokens=self._staggered(lane))
        if self._start_s is None:
            self._start_s = self.now()
        while not self._finished():
            measured = self._wants_more()
            transcript = await self._one(measured=measured)
            if transcript.error is not None:
                wait_s = max(_BACKOFF_S, min(transcript.retry_after_s, _LONGEST_BACKOFF_S))
                await asyncio.sleep(wait_s)

    async def _one(self, *, measured: bool, output_tokens: int | None = None) -> Transcript:
        request, prompt_tokens, asked = self._request(output_tokens)
        self._measured += measured
        self._open += measured
        scheduled_s = self.now()
        transcript = await exchange(self.connection.pool, request, self.workload.timeout_s)
        self._open -= measured
        if measured:
            self._end_s = self.now()
        self._sent.append(_Sent(scheduled_s, measured, prompt_tokens, asked, transcript))
        return transcript

    def _wants_more(self) -> bool:
        goal = self.workload.request_goal
        if goal is not None and self._measured >= goal:
            return False
        return not self._time_is_up()

    def _finished(self) -> bool:
        return self._open == 0 and not self._wants_more()

    def _time_is_up(self) -> bool:
        limit_s = self.workload.duration_s
        started_s = self._start_s
        return limit_s is not None and started_s is not None and self.now() - started_s >= limit_s

    def _staggered(self, lane: int) -> int:
        lanes = self.workload.concurrency
        return max(1, round(self.workload.output_tokens * (lanes - lane) / lanes))

    def _prepare(self) -> None:
        """Make the requests before the clock runs."""
        count = (self.workload.request_goal or 0) + 2 * self.workload.concurrency
        self._ready = [self._make(i, None) for i in range(min(count, _READY_REQUESTS))]

    def _request(self, output_tokens: int | None) -> tuple[bytes, int, int]:
        index, self._next = self._next, self._next + 1
        if output_tokens is not None or index >= len(self._ready):
            return self._make(index, output_tokens)
        return self._ready[index]

    def _make(self, index: int, output_tokens: int | None) -> tuple[bytes, int, int]:
        load = self.workload
        asked = load.output_tokens if output_tokens is None else output_tokens
        prompt = self.prompts.prompt(load, index)
        request = self.dialect.request(self.connection.pool, prompt, asked, stream=load.stream)
        return request, prompt.tokens, 0 if load.kind == "embed" else asked


def _sample(sent: _Sent, sample: Sample) -> Sample:
    return replace(
        sample,
        measured=sent.measured,
        asked_prompt_tokens=sent.asked_prompt_tokens,
        asked_output_tokens=sent.asked_output_tokens,
    )
