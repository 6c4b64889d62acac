"""The search: ask, try, tell, until there is a reason to stop."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from vllama.bench.measurement import Measurement
from vllama.bench.rig import Bench
from vllama.errors import EngineFailed
from vllama.tuner import drift, jobs
from vllama.tuner.attempt import Clock, Doubt, Rung
from vllama.tuner.ladder import Aids, Ladder
from vllama.tuner.study import Ask, Study
from vllama.tuner.subject import Subject
from vllama.tuner.trial import Trial

HOPELESS = 5
# The search has converged when so many asks in a row promise less than so much.
ASKS, WORTH = 3, 0.0005
# How often to look whether other workers are done.
POLL_S = 2.0


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop: after so many trials with a start of their own, or when `left_s` says so."""

    trials: int
    left_s: Callable[[], float] = lambda: math.inf


class Search:
    """Trials of one subject. `stopped` says, once it has ended, why."""

    def __init__(
        self,
        study: Study,
        bench: Bench,
        subject: Subject,
        rungs: Sequence[Rung],
        clock: Clock = time.monotonic,
        aids: Aids | None = None,
        side_by_side: int = 1,
    ) -> None:
        self._study = study
        self._jobs = side_by_side
        self._in_control = False
        self._subject = subject
        self._ladder = Ladder(study, bench, subject, rungs, clock, aids)
        self.stopped = ""

    async def run(self, limits: Limits) -> AsyncGenerator[Trial, None]:
        """Try until a limit is reached or nothing is left; each trial is kept before it is given.

        Raises:
            EngineFailed: nothing can start, whatever the options: the first failure.
            EngineMissing: there is no engine.
        """

        def climb(ask: Ask) -> AsyncGenerator[Trial, None]:
            control = ask.origin == drift.CONTROL
            doubts = (lambda _: None) if control else self._doubt()
            return self._ladder.climb(ask, doubts, limits.left_s)

        trials = jobs.run(self._jobs, lambda _: self._following(limits), climb)
        async with aclosing(trials), self._study.alive():
            async for trial in trials:
                self._in_control = self._in_control and trial.origin != drift.CONTROL
                yield self._study.tell(trial)
        await self._others_done(limits)

    def _following(self, limits: Limits) -> Ask | None:
        self.stopped = self._reason_to_stop(limits)
        if self.stopped:
            return None
        due = drift.is_due(self._study.trials()) and not self._study.has_queue
        if due and not self._in_control:
            self._in_control = True
            return self._study.repeat({}, drift.CONTROL)
        ask = self._study.ask()
        if ask is None:
            self.stopped = "every combination was tried"
        return ask

    async def _others_done(self, limits: Limits) -> None:
        """Wait for the trials of other workers of this study, unless they are dead."""
        while self._study.under_way and limits.left_s() > 0:
            self._study.free_stale()
            await asyncio.sleep(POLL_S)

    def _reason_to_stop(self, limits: Limits) -> str:
        done = self._study.trials()
        _give_up_if_hopeless(done)
        started = [t for t in done if t.has_own_start and t.origin != drift.CONTROL]
        if len(started) + self._study.under_way >= limits.trials:
            return f"{limits.trials} trials were done"
        typical_s = sorted(t.seconds for t in started)[len(started) // 2] if started else 0.0
        if typical_s > limits.left_s():
            return "the budget holds no further trial beside the finals"
        return self._nothing_left()

    def _nothing_left(self) -> str:
        """What the model of the search says, once it has been asked often enough."""
        looks = self._study.outlooks[-ASKS:]
        if len(looks) < ASKS:
            return ""
        if all(look.possible_gain < 0 for look in looks):
            return "nothing that is left can be better than the best"
        if all(look.expected_gain < WORTH for look in looks):
            return f"no trial promises {WORTH:.2%} more, {ASKS} times in a row"
        return ""

    def _doubt(self) -> Doubt:
        return doubt(self._subject, self._study.trials())


def doubt(subject: Subject, done: Sequence[Trial], margin: float = 0.1) -> Doubt:
    """Stop early what is behind the best by far more than a short measurement can err."""
    best = max(
        (subject.objective.value(t.measurements) for t in done if t.complete), default=None
    )  # fmt: skip

    def decide(measured: Mapping[str, Measurement]) -> str | None:
        if best is None or subject.objective.value(measured) > best - margin:
            return None
        behind = 1 - math.exp(subject.objective.value(measured) - best)
        return f"{behind:.0%} behind the best after the first measurement"

    return decide


def _give_up_if_hopeless(done: Sequence[Trial]) -> None:
    """When the engine cannot start at all, more trials only cost time."""
    failures = [t.failure for t in done if t.state == "failed" and t.failure]
    if not failures or len(failures) < len(done):
        return
    first = failures[0]
    if len(failures) >= HOPELESS or first.kind in ("bad_model", "port"):
        raise EngineFailed(
            f"no configuration could be started: {first.message}",
            "See what the engine says with `vllama bench`, or look at `vllama doctor`.",
            kind=first.kind,
            phase=first.phase,
        )
