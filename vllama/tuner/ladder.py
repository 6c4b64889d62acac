"""The ladder of costs: the engine's word first, then a live server, then a start of its own.

Every candidate passes the engine's own dry run, which costs hundredths of a second. Where the
engine can be told other limits while it serves, one start measures several settings of them.
What wins that way is confirmed by the finals, which start everybody afresh.
"""

import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import product
from typing import Protocol

from vllama.bench.rig import Bench, Session
from vllama.errors import EngineFailed
from vllama.profile import Profile, Scalar
from vllama.tuner import accuracy, journal
from vllama.tuner.accuracy import Gate, Listen
from vllama.tuner.attempt import Clock, Doubt, Rung, attempt, judged, measured_on, noted
from vllama.tuner.space import Knob, Space
from vllama.tuner.study import Ask, Study
from vllama.tuner.subject import Subject
from vllama.tuner.trial import DRY_RUN, LIVE, Failure, Trial, key

# Settings that a start measures beside the one that was asked for, each for a third as long:
# in the contests who was chosen was as good as with half, and sooner (docs/tuning.md).
SIBLINGS = 9
SHARE = 1 / 3


class Word(Protocol):
    """What an engine says of a launch; `reason` is empty when it would start."""

    @property
    def effective(self) -> Mapping[str, Scalar | None]:
        """The values it would work with."""
        ...

    @property
    def reason(self) -> str:
        """Why it would not start."""
        ...


class Steering(Protocol):
    """How some options of a running engine are changed."""

    limits: tuple[str, ...]

    def steerable(self, profile: Profile) -> Profile:
        """The same launch, so that it can be steered."""
        ...

    def steer(self, session: Session, limits: Mapping[str, int]) -> bool:
        """Set the limits from the next step on; False where it cannot."""
        ...


class Check(Protocol):
    """The engine's dry run."""

    async def __call__(self, profile: Profile) -> Word:
        """What it says of a launch; raises EngineFailed when it cannot be asked."""
        ...


@dataclass
class Aids:
    """What there is beside starts; and what asking the engine has cost so far.

    `listen` hears how a running engine continues prompts, for the accuracy gate.
    """

    check: Check | None = None
    steering: Steering | None = None
    listen: Listen = accuracy.over_http
    checked: int = 0
    refused: int = 0
    check_s: float = 0.0


class Ladder:
    """Climbs with one configuration, and on a live server with its siblings too."""

    def __init__(
        self, study: Study, bench: Bench, subject: Subject, rungs: Sequence[Rung],
        clock: Clock = time.monotonic, aids: Aids | None = None,
    ) -> None:  # fmt: skip
        self._study = study
        self._bench = bench
        self._subject = subject
        self._rungs = rungs
        self._clock = clock
        self._aids = aids or Aids()
        self._unsteerable = 0
        self._gate = None
        if subject.accuracy is not None:
            knobs = subject.space.knobs
            self._gate = Gate(subject.accuracy, knobs, study.trials, self._aids.listen)

    async def climb(
        self, ask: Ask, doubt: Doubt, left_s: Callable[[], float]
    ) -> AsyncGenerator[Trial, None]:
        """Trials of `ask` and, where one start serves for more, of others of its kind."""
        refused, effective = await self._checked(ask)
        if refused is not None:
            yield refused
            return
        if self._steers(ask):
            climbed = False
            async with aclosing(self._live(ask, effective, doubt, left_s)) as live:
                async for trial in live:
                    climbed = True
                    yield trial
            if climbed:
                return
        trial = await attempt(
            self._bench, self._subject, ask, self._rungs, doubt, self._clock, self._gate
        )
        yield replace(trial, effective=effective)

    async def _checked(self, ask: Ask) -> tuple[Trial | None, dict[str, Scalar]]:
        """The failed trial of what the engine refuses, or the values it would work with."""
        if self._aids.check is None:
            return None, {}
        began, at = self._clock(), datetime.now(UTC)
        try:
            word = await self._aids.check(self._subject.profile(ask.options))
        except EngineFailed:
            # Starts tell the same, only later.
            self._aids.check = None
            return None, {}
        seconds = self._clock() - began
        self._aids.check_s += seconds
        self._aids.checked += 1
        if not word.reason:
            return None, _told(self._subject.space, word.effective)
        self._aids.refused += 1
        journal.note("refused", options=dict(ask.options), why=word.reason)
        failure = Failure("bad_option", word.reason, DRY_RUN)
        trial = Trial(ask.number, ask.options, "failed", failure=failure, origin=ask.origin,
                      seconds=seconds, started_at=at, ended_at=datetime.now(UTC))  # fmt: skip
        return trial, {}

    def _steers(self, ask: Ask) -> bool:
        """The default itself is what all is compared with: it gets its own start."""
        return bool(ask.options) and self._aids.steering is not None and bool(self._steered())

    def _steered(self) -> list[Knob]:
        names = self._aids.steering.limits if self._aids.steering else ()
        return [k for k in self._subject.space.knobs if k.name in names]

    async def _live(
        self, ask: Ask, effective: dict[str, Scalar], doubt: Doubt, left_s: Callable[[], float]
    ) -> AsyncGenerator[Trial, None]:
        """One start at the top of the limits; then one setting of them after the other.

        Gives nothing when the engine cannot be started that way; after a second time it is
        not tried again.
        """
        began, space = self._clock(), self._subject.space
        steering = self._aids.steering
        assert steering is not None
        top = self._top(ask.options)
        launch = space.launch({**space.choice(ask.options), **top})
        profile = steering.steerable(self._subject.profile(launch))
        try:
            async with self._bench.started(profile) as session:
                if not steering.steer(session, self._limits(ask.options)):
                    self._aids.steering = None
                    return
                trial = await self._setting(
                    session, ask, self._rungs, doubt, began, gate=self._gate
                )
                heard = accuracy.figures(trial.facts)
                yield replace(trial, effective=effective)
                if trial.state != "failed":
                    async for other in self._others(session, ask, top, doubt, left_s):
                        yield replace(other, facts={**other.facts, **heard})
        except EngineFailed:
            self._unsteerable += 1
            if self._unsteerable > 1:
                self._aids.steering = None

    async def _others(
        self, session: Session, ask: Ask, top: Mapping[str, Scalar], doubt: Doubt,
        left_s: Callable[[], float],
    ) -> AsyncGenerator[Trial, None]:  # fmt: skip
        """The siblings, until one brings the engine down or the time is over."""
        assert self._aids.steering is not None
        short = (Rung(self._rungs[-1].seconds * SHARE),)
        open_, taken = self._siblings(ask.options, top), [ask.options]
        while open_ and len(taken) <= SIBLINGS:
            if left_s() < 3 * short[0].seconds:
                return
            options = self._study.best_of(open_) or self._farthest(open_, taken)
            open_.remove(options)
            taken.append(options)
            other = self._study.beside(options, LIVE)
            trial, effective = await self._checked(other)
            if trial is None:
                self._aids.steering.steer(session, self._limits(options))
                trial = await self._setting(session, other, short, doubt, self._clock())
                trial = replace(trial, effective=effective, start_s=0.0)
            yield trial
            if trial.state == "failed" and not trial.refused:
                return

    async def _setting(
        self, session: Session, ask: Ask, rungs: Sequence[Rung], doubt: Doubt, began: float,
        gate: Gate | None = None,
    ) -> Trial:  # fmt: skip
        trial = Trial(
            ask.number, ask.options, "failed", origin=ask.origin, start_s=session.start_s,
            facts={LIVE: 1}, command=tuple(session.endpoint.command), started_at=datetime.now(UTC),
        )  # fmt: skip
        try:
            if gate is not None:
                trial = await gate.passed(session, trial)
            measured, pruned = await measured_on(session, self._subject.workloads, rungs, doubt)
            trial = judged(replace(trial, measurements=measured), self._subject, pruned)
        except EngineFailed as failed:
            failure = Failure(failed.kind, failed.message, failed.phase)
            trial = replace(trial, failure=failure)
        trial = replace(trial, seconds=self._clock() - began, ended_at=datetime.now(UTC))
        noted(trial)
        return trial

    def _limits(self, options: Mapping[str, Scalar]) -> dict[str, int]:
        choice = self._subject.space.choice(options)
        return {k.name: int(choice[k.name]) for k in self._steered()}

    def _top(self, options: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """The highest limits beside the same other options with which it should start."""
        space, knobs = self._subject.space, [k for k in self._steered() if not _is_off(k)]
        asked = space.choice(options)
        higher = [[c for c in k.choices if float(c) >= float(asked[k.name])] for k in knobs]
        every = [dict(zip([k.name for k in knobs], values, strict=True))
                 for values in product(*higher)]  # fmt: skip
        every.sort(key=lambda top: sum(k.coordinate(top[k.name]) for k in knobs), reverse=True)
        for top in every:
            launch = space.launch({**asked, **top})
            if space.check(launch) is None and self._study.expects(launch):
                return top
        return {k.name: asked[k.name] for k in knobs}

    def _siblings(
        self, options: Mapping[str, Scalar], top: Mapping[str, Scalar]
    ) -> list[dict[str, Scalar]]:
        """Untried settings of the limits up to `top` beside the same other options."""
        space, knobs = self._subject.space, self._steered()
        tried = {key(t.options) for t in self._study.trials()} | {key(options)}
        centre = space.choice(options)
        every = [
            space.launch({**centre, **dict(zip([k.name for k in knobs], values, strict=True))})
            for values in product(*(_up_to(k, top.get(k.name)) for k in knobs))
        ]
        return [o for o in every if o and key(o) not in tried and space.check(o) is None]

    def _farthest(
        self, options: Sequence[dict[str, Scalar]], taken: Sequence[Mapping[str, Scalar]]
    ) -> dict[str, Scalar]:
        """The one whose limits are the farthest from all that were taken."""
        knobs = self._steered()

        def point(each: Mapping[str, Scalar]) -> list[float]:
            choice = self._subject.space.choice(each)
            return [k.coordinate(choice[k.name]) for k in knobs]

        known = [point(each) for each in taken]
        return max(options, key=lambda each: min(math.dist(point(each), k) for k in known))


def _up_to(knob: Knob, top: Scalar | None) -> list[Scalar]:
    return [c for c in knob.choices if top is None or float(c) <= float(top)]


def _is_off(knob: Knob) -> bool:
    """A threshold whose default is nought is none at all, which is more than any number."""
    return knob.default == 0


def _told(space: Space, effective: Mapping[str, Scalar | None]) -> dict[str, Scalar]:
    """Of all that an engine says it would work with, what the search is about."""
    names = {k.name for k in space.knobs}
    return {k: v for k, v in effective.items() if k in names and v is not None}
