"""The step model on the real clock: each token comes when its step ends."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from vllama.engines.simulator_faults import Faults
from vllama.engines.simulator_steps import Batcher, Sequence
from vllama.engines.simulator_world import Limits, World

# asyncio wakes up to a millisecond late; the rest is slept through on the spot.
COARSE_S = 0.002
LAG_S = 0.5


@dataclass(slots=True)
class Counters:
    """What `/metrics` tells."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    requests: int = 0
    first_token_s: list[float] = field(default_factory=list)


class Clockwork:
    """The engine: sequences go in, tokens come out in time."""

    def __init__(
        self,
        world: World,
        limits: Limits,
        faults: Faults,
        *,
        scale: float,
        seed: int,
        crash: Callable[[], None],
    ) -> None:
        self.batcher = Batcher(world, limits)
        self.limits = limits
        self.counters = Counters()
        self._faults = faults
        self._scale = scale
        self._random = random.Random(seed)
        self._scale *= self._random.lognormvariate(0, faults.start_noise)
        self._crash = crash
        self._began_s = time.monotonic()
        self._arrived = asyncio.Event()
        self._tokens: dict[Sequence, asyncio.Queue[float]] = {}

    async def generate(
        self, prompt_tokens: int, output_tokens: int, cached_tokens: int = 0
    ) -> AsyncIterator[float]:
        """The tokens of one request: the time of each, seconds on the monotonic clock."""
        sequence = Sequence(
            prompt_tokens, output_tokens, time.monotonic(), cached_tokens=cached_tokens
        )
        queue: asyncio.Queue[float] = asyncio.Queue()
        self._tokens[sequence] = queue
        self.batcher.submit(sequence)
        self.counters.prompt_tokens += prompt_tokens
        self.counters.cached_tokens += cached_tokens
        self._arrived.set()
        try:
            for index in range(output_tokens):
                at_s = await queue.get()
                if index == 0:
                    self.counters.first_token_s.append(at_s - sequence.arrived_s)
                yield at_s
        finally:
            del self._tokens[sequence]
            self.batcher.cancel(sequence)

    async def run(self) -> None:
        """Step for ever."""
        now_s = time.monotonic()
        while True:
            if self.batcher.is_idle:
                self._arrived.clear()
                await self._arrived.wait()
                now_s = time.monotonic()
            if self._is_hung():
                await asyncio.Event().wait()
            decoding = tuple(self.batcher.decoding)
            step = self.batcher.step()
            now_s += step.duration_s * self._pace()
            await _sleep_until(now_s)
            if time.monotonic() - now_s > LAG_S:
                now_s = time.monotonic()
            went_on = [s for s in decoding if s not in step.preempted]
            for sequence in (*went_on, *step.first):
                self._give(sequence, now_s)

    def _give(self, sequence: Sequence, now_s: float) -> None:
        queue = self._tokens.get(sequence)
        if queue is None:  # its client has left meanwhile
            return
        self.counters.output_tokens += 1
        queue.put_nowait(now_s)
        limit = self._faults.crash_after_tokens
        if limit and self.counters.output_tokens >= limit:
            self._crash()

    def _is_hung(self) -> bool:
        limit = self._faults.hang_after_tokens
        return bool(limit) and self.counters.output_tokens >= limit

    def _pace(self) -> float:
        hours = (time.monotonic() - self._began_s) / 3600
        noise = self._random.lognormvariate(0, self._faults.noise) if self._faults.noise else 1.0
        return self._scale * noise * (1 + self._faults.drift_per_hour * hours)


async def _sleep_until(at_s: float) -> None:
    rest_s = at_s - time.monotonic()
    # Also with nothing to wait for: whoever has come in must get a turn.
    await asyncio.sleep(max(0.0, rest_s - COARSE_S))
    rest_s = at_s - time.monotonic()
    if rest_s > 0:
        time.sleep(rest_s)  # noqa: ASYNC251 - at most COARSE_S, and exact
