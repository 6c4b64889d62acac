"""A model of continuous batching in steps: who is scheduled, how long each step takes.

Pure: no clock, no input or output. The simulator runs it on the real clock, the tuner's
benchmark and tests in virtual time.
"""

import heapq
import itertools
from collections import deque
from dataclasses import dataclass, field

from vllama.engines.simulator_world import Limits, World

_numbers = itertools.count()


@dataclass(slots=True, eq=False)
class Sequence:
    """One request in the engine. `cached_tokens` of its prompt need no prefill."""

    prompt_tokens: int
    output_tokens: int
    arrived_s: float = 0.0
    cached_tokens: int = 0
    prefilled: int = 0
    held: int = 0
    done_before: int = 0
    decodes_since: int = -1
    number: int = field(default_factory=lambda: next(_numbers))

    @property
    def is_decoding(self) -> bool:
        """Whether its prompt is done."""
        return self.decodes_since >= 0


@dataclass(frozen=True, slots=True)
class Step:
    """One step that was taken: its length, and who got a token in it."""

    duration_s: float
    prefill_tokens: int
    decoding: int
    first: tuple[Sequence, ...]
    finished: tuple[Sequence, ...]
    preempted: tuple[Sequence, ...]


class Batcher:
    """The scheduler: admission, chunked prefill, KV limit with pre-emption."""

    def __init__(self, world: World, limits: Limits) -> None:
        self.world = world
        self.limits = limits
        self.waiting: deque[Sequence] = deque()
        self.prefilling: list[Sequence] = []
        self.decoding: dict[Sequence, None] = {}
        self.used_tokens = 0
        self.preemptions = 0
        self._context = 0
        self._decodes = 0
        self._ends: list[tuple[int, int, Sequence]] = []

    @property
    def running(self) -> int:
        """How many hold a place in the batch."""
        return len(self.prefilling) + len(self.decoding)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.waiting and not self.running

    def submit(self, sequence: Sequence) -> None:
        """Queue one. What can never fit must be refused before."""
        self.waiting.append(sequence)

    def produced(self, sequence: Sequence) -> int:
        """The tokens that it has got so far."""
        since = self._decodes - sequence.decodes_since if sequence.is_decoding else 0
        return sequence.done_before + since + (1 if sequence.is_decoding else 0)

    def cancel(self, sequence: Sequence) -> None:
        """Forget one whose client has left."""
        if sequence in self.decoding:
            self._drop(sequence)
        elif sequence in self.prefilling:
            self.prefilling.remove(sequence)
            self.used_tokens -= sequence.held
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def step(self) -> Step:
        """Take one step."""
        preempted = self._preempt()
        decoding = len(self.decoding)
        context = self._context
        prefill_tokens, attended, ready = self._prefill(self.limits.max_num_batched_tokens)
        duration_s = self.world.step_s(
            self.limits, prefill_tokens, decoding, context, attended, self.running
        )
        finished = self._decode(1) if decoding else []
        finished += self._begin(ready)
        return Step(duration_s, prefill_tokens, decoding, tuple(ready), tuple(finished), preempted)

    def quiet_steps(self) -> int:
        """How many of the next steps only decode the same sequences, with nobody finishing."""
        if self.waiting or self.prefilling or not self.decoding:
            return 0
        until_end = self._next_end() - self._decodes - 1
        room = (self.limits.kv_cache_tokens - self.used_tokens) // len(self.decoding)
        return max(0, min(until_end, room))

    def skip(self, steps: int) -> float:
        """Take as many steps at once as `quiet_steps` allows; how long they take together."""
        decoding = len(self.decoding)
        first = self.world.step_s(self.limits, 0, decoding, self._context, 0, decoding)
        last_context = self._context + decoding * (steps - 1)
        last = self.world.step_s(self.limits, 0, decoding, last_context, 0, decoding)
        self._decode(steps)
        # The length of a step grows linearly with the context, but for a kink at most.
        return steps * (first + last) / 2

    def _prefill(self, budget: int) -> tuple[int, float, list[Sequence]]:
        """Chunks of prompts within the budget that decoding leaves.

        Half-read prompts that hold all the room would wait for each other for ever: then the
        youngest gives back what it holds.
        """
        while True:
            tokens, attended, ready = self._chunks(budget - len(self.decoding))
            if tokens or self.decoding or len(self.prefilling) < 2:
                return tokens, attended, ready
            self._requeue(self.prefilling.pop())

    def _chunks(self, budget: int) -> tuple[int, float, list[Sequence]]:
        tokens, attended = 0, 0.0
        ready: list[Sequence] = []
        for sequence in [*self.prefilling, *self._admitted(budget)]:
            room = self.limits.kv_cache_tokens - self.used_tokens - len(self.decoding)
            chunk = min(budget - tokens, sequence.prompt_tokens - sequence.prefilled, room)
            if chunk <= 0:
                break
            attended += chunk * (sequence.prefilled + chunk / 2)
            sequence.prefilled += chunk
            sequence.held += chunk
            self.used_tokens += chunk
            tokens += chunk
            if sequence.prefilled >= sequence.prompt_tokens:
                ready.append(sequence)
        return tokens, attended, ready

    def _admitted(self, budget: int) -> list[Sequence]:
        """Take from the queue while places, budget and KV room last."""
        admitted: list[Sequence] = []
        budget -= sum(s.prompt_tokens - s.prefilled for s in self.prefilling)
        planned = self.used_tokens + len(self.decoding)
        while self.waiting and budget > 0 and self.running < self.limits.max_num_seqs:
            sequence = self.waiting[0]
            cached = min(sequence.cached_tokens, sequence.prompt_tokens - 1)
            planned += min(sequence.prompt_tokens, cached + budget)
            if planned > self.limits.kv_cache_tokens:
                break
            self.waiting.popleft()
            sequence.prefilled = sequence.held = cached
            self.used_tokens += cached
            budget -= sequence.prompt_tokens - cached
            self.prefilling.append(sequence)
            admitted.append(sequence)
        return admitted

    def _preempt(self) -> tuple[Sequence, ...]:
        """Give back what the youngest hold, as long as there is no room for one more each."""
        victims = []
        while len(self.decoding) > 1 and (
            self.used_tokens + len(self.decoding) > self.limits.kv_cache_tokens
        ):
            youngest = next(reversed(self.decoding))
            got = self.produced(youngest)
            self._drop(youngest)
            # What it had is computed again: its answer so far becomes prompt.
            youngest.prompt_tokens += got - youngest.done_before
            youngest.done_before = got
            youngest.held = 0
            self._requeue(youngest)
            victims.append(youngest)
        return tuple(victims)

    def _requeue(self, sequence: Sequence) -> None:
        """Back to the head of the queue, with nothing in hand."""
        self.used_tokens -= sequence.held
        sequence.prefilled = sequence.held = sequence.cached_tokens = 0
        self.waiting.appendleft(sequence)
        self.preemptions += 1

    def _drop(self, sequence: Sequence) -> None:
        del self.decoding[sequence]
        held = sequence.held + self._decodes - sequence.decodes_since
        self.used_tokens -= held
        self._context -= held
        sequence.decodes_since = -1

    def _decode(self, steps: int) -> list[Sequence]:
        self._decodes += steps
        self._context += steps * len(self.decoding)
        self.used_tokens += steps * len(self.decoding)
        finished = []
        while self._ends and self._next_end() <= self._decodes:
            _, _, sequence = heapq.heappop(self._ends)
            self._drop(sequence)
            finished.append(sequence)
        return finished

    def _begin(self, ready: list[Sequence]) -> list[Sequence]:
        """Each that is ready gets its first token, and is finished if it wants no more."""
        finished = []
        for sequence in ready:
            self.prefilling.remove(sequence)
            remaining = sequence.output_tokens - sequence.done_before
            if remaining <= 1:
                self.used_tokens -= sequence.held
                finished.append(sequence)
                continue
            sequence.decodes_since = self._decodes
            self.decoding[sequence] = None
            self._context += sequence.held
            end = self._decodes + remaining - 1
            heapq.heappush(self._ends, (end, sequence.number, sequence))
        return finished

    def _next_end(self) -> int:
        """When the next one finishes; entries of those who left early are thrown away."""
        while self._ends:
            end, _, sequence = self._ends[0]
            remaining = sequence.output_tokens - sequence.done_before - 1
            if sequence in self.decoding and sequence.decodes_since + remaining == end:
                return end
            heapq.heappop(self._ends)
        return 1 << 60
