"""A whole measurement in virtual time: a closed loop of clients on the step model."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from vllama.engines.simulator_steps import Batcher, Sequence
from vllama.engines.simulator_world import Limits, World


@dataclass(frozen=True, slots=True)
class Served:
    """One request as its client saw it; seconds since the start of the run."""

    sent_s: float
    first_token_s: float
    end_s: float
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Run:
    """All requests of a run, in the order in which they ended."""

    served: tuple[Served, ...]
    duration_s: float
    preemptions: int
    steps: int

    @property
    def output_tokens_per_s(self) -> float:
        """Over the whole run, filling and emptying included."""
        return sum(s.output_tokens for s in self.served) / self.duration_s


def closed_loop(
    world: World,
    limits: Limits,
    *,
    concurrency: int,
    requests: int,
    prompt_tokens: int,
    output_tokens: int,
    spread: float = 0.0,
    seed: int = 0,
    pace: Callable[[float], float] = lambda _: 1.0,
) -> Run:
    """`concurrency` clients send `requests` one after the other; no wall time passes.

    `spread` is the relative deviation of the prompts' lengths; `pace(t_s)` stretches a step
    at that time, for noise and drift.
    """
    random = Random(seed)
    lengths = [
        max(1, round(prompt_tokens * max(0.1, random.gauss(1.0, spread)))) for _ in range(requests)
    ]
    batcher = Batcher(world, limits)
    now, steps, sent = 0.0, 0, 0
    firsts: dict[Sequence, float] = {}
    served: list[Served] = []
    while sent < min(concurrency, requests):
        batcher.submit(Sequence(lengths[sent], output_tokens, now))
        sent += 1
    while not batcher.is_idle:
        quiet = batcher.quiet_steps()
        if quiet > 1:
            now += batcher.skip(quiet) * pace(now)
            steps += quiet
            continue
        step = batcher.step()
        now += step.duration_s * pace(now)
        steps += 1
        for sequence in step.first:
            firsts.setdefault(sequence, now)
        for sequence in step.finished:
            served.append(
                Served(
                    sequence.arrived_s, firsts.pop(sequence), now,
                    sequence.prompt_tokens - sequence.done_before, output_tokens,
                )
            )  # fmt: skip
            if sent < requests:
                batcher.submit(Sequence(lengths[sent], output_tokens, now))
                sent += 1
    return Run(tuple(served), now, batcher.preemptions, steps)
