"""The search: ask, try, tell, until there is a reason to stop."""

import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from vllama.bench.measurement import Measurement
from vllama.bench.rig import Bench
from vllama.errors import EngineFailed
from vllama.tuner.attempt import Clock, Doubt, Rung
from vllama.tuner.ladder import Aids, Ladder
from vllama.tuner.study import Study
from vllama.tuner.subject import Subject
from vllama.tuner.trial import Trial

HOPELESS = 5
# The search has converged when so many asks in a row promise less than so much.
ASKS, WORTH = 3, 0.0005


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
    ) -> None:
        self._study = study
        self._subject = subject
        self._ladder = Ladder(study, bench, subject, rungs, clock, aids)
        self.stopped = ""

    async def run(self, limits: Limits) -> AsyncGenerator[Trial, None]:
        """Try until a limit is reached or nothing is left; each trial is kept before it is given.

        Raises:
            EngineFailed: nothing can start, whatever the options: the first failure.
            EngineMissing: there is no engine.
        """
        while not (reason := self._reason_to_stop(limits)):
            ask = self._study.ask()
            if ask is None:
                reason = "every combination was tried"
                break
            climb = self._ladder.climb(ask, self._doubt(), limits.left_s)
            async with aclosing(climb) as trials:
                async for trial in trials:
                    yield self._study.tell(trial)
        self.stopped = reason

    def _reason_to_stop(self, limits: Limits) -> str:
        done = self._study.trials()
        _give_up_if_hopeless(done)
        started = [t for t in done if t.has_own_start]
        if len(started) >= limits.trials:
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
            return f"no trial promises {WORTH:.1%} more, {ASKS} times in a row"
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
