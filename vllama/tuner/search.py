"""The search: ask, try, tell, until there is a reason to stop."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from vllama.bench.measurement import Measurement
from vllama.bench.rig import Bench
from vllama.errors import EngineFailed
from vllama.tuner.attempt import Clock, Doubt, Rung, attempt
from vllama.tuner.study import Study
from vllama.tuner.subject import Subject
from vllama.tuner.trial import Trial

HOPELESS = 5


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop: after so many trials in the study, or so many seconds from now."""

    trials: int
    seconds: float | None = None


class Search:
    """Trials of one subject. `stopped` says, once it has ended, why."""

    def __init__(
        self,
        study: Study,
        bench: Bench,
        subject: Subject,
        rungs: Sequence[Rung],
        clock: Clock = time.monotonic,
    ) -> None:
        self._study = study
        self._bench = bench
        self._subject = subject
        self._rungs = rungs
        self._clock = clock
        self.stopped = ""

    async def run(self, limits: Limits) -> AsyncIterator[Trial]:
        """Try until a limit is reached or nothing is left; each trial is kept before it is given.

        Raises:
            EngineFailed: nothing can start, whatever the options: the first failure.
            EngineMissing: there is no engine.
        """
        began = self._clock()
        while not (reason := self._reason_to_stop(limits, self._clock() - began)):
            ask = self._study.ask()
            if ask is None:
                reason = "every combination was tried"
                break
            trial = await attempt(
                self._bench, self._subject, ask, self._rungs, self._doubt(), self._clock
            )
            self._study.tell(trial)
            yield trial
        self.stopped = reason

    def _reason_to_stop(self, limits: Limits, spent_s: float) -> str:
        done = self._study.trials()
        _give_up_if_hopeless(done)
        if len(done) >= limits.trials:
            return f"{limits.trials} trials were done"
        if limits.seconds is not None and done:
            typical = sorted(t.seconds for t in done)[len(done) // 2]
            if spent_s + typical > limits.seconds:
                return "the budget holds no further trial"
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
        behind = 1 - 2.718281828 ** (subject.objective.value(measured) - best)
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
