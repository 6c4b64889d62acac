"""What the search believes: the analytic prior, and a Gaussian process on what it gets wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vllama.profile import Scalar
from vllama.tuner import crashes, drift, gaussian
from vllama.tuner.gaussian import Array, Mask, Process
from vllama.tuner.objective import Objective
from vllama.tuner.prior import Expected, Prior
from vllama.tuner.space import Space
from vllama.tuner.trial import Trial, key

# The name under which the process of the value itself is kept, beside those of the limits.
_VALUE = ""


@dataclass(frozen=True, slots=True)
class Places:
    """Configurations, and where they lie in the space: a row of `x` for each."""

    options: Sequence[Mapping[str, Scalar]]
    choices: Sequence[dict[str, Scalar]]
    x: Array
    keys: Sequence[str]

    @classmethod
    def of(cls, space: Space, options: Sequence[Mapping[str, Scalar]]) -> "Places":
        """Where `options` lie; those of an earlier space at what is nearest."""
        choices = [space.snapped(each) for each in options]
        x = np.array([space.point(choice) for choice in choices], dtype=float)
        return cls(options, choices, x, [key(each) for each in options])


@dataclass(frozen=True, slots=True)
class Improvement:
    """Over the `best` so far: its expectation's log, and what else it is judged by."""

    log_expected: Array
    kept: Array
    likely_reach: Array
    best: float

    def possible(self, open_: Mask) -> float:
        """How much better than the best those that probably work may be."""
        likely = open_ & (self.kept > 0.1)
        return float(self.likely_reach[likely].max()) - self.best if likely.any() else 0.0


class Belief:
    """After `trials`, and as if what is `under_way` had turned out as foreseen.

    With the processes of an earlier belief as `alike`, only what was measured since is taken
    in: their scales stay, which saves nearly all of the time. `fitted` are this one's.
    """

    def __init__(
        self,
        space: Space,
        objective: Objective,
        prior: Prior,
        trials: Sequence[Trial],
        *,
        under_way: Sequence[Mapping[str, Scalar]] = (),
        alike: Mapping[str, Process] | None = None,
    ) -> None:
        self._space = space
        self._objective = objective
        self._prior = prior.after(trials)
        self._trials = trials
        self._under_way = under_way
        self._alike = alike or {}
        # Of what it holds to be impossible the prior has no figures that could be put right.
        measured = [t for t in trials if t.measurements]
        self._measured = [
            t for t in measured if not t.options or self._prior.expect(t.options).fits
        ]
        self.fitted: dict[str, Process] = {}

    @property
    def has_grounds(self) -> bool:
        """Whether enough was measured for more than the prior."""
        return len(self._measured) > 1

    def starts(self, places: Places) -> Array:
        """The probability that each comes up."""
        tried = [(self._space.snapped(t.options), t) for t in self._trials]
        return crashes.survival(self._space.knobs, places.choices, tried)

    def prior_worth(self, places: Places) -> Array:
        """The prior's log value, far less where it sees a limit broken or a crash."""
        expected = self._expected(places.options)
        broken = sum((np.maximum(_excess(expected, n), 0) for n in self._limits), np.zeros(1))
        result: Array = _value(expected) - 5 * broken + np.log(self.starts(places))
        return result

    def improvement(self, places: Places) -> Improvement:
        """Over the best of what was measured, times the probability that all is kept."""
        seen = Places.of(self._space, [t.options for t in self._measured])
        foreseen = self._expected(seen.options)
        process = self._of_value(seen, _value(foreseen))
        at_seen = process.predict(seen.x)[0] + _value(foreseen)
        mean, sd = process.predict(places.x)
        expected = self._expected(places.options)
        mean = mean + _value(expected)
        kept = self.starts(places)
        for name in self._limits:
            kept = kept * self._limit_kept(name, seen, foreseen, places, expected)
        held = [i for i, t in enumerate(self._measured) if t.state != "infeasible"]
        best = float(at_seen[held].max()) if held else float(at_seen.min())
        log_ei = gaussian.log_expected_improvement(mean, sd, best)
        return Improvement(log_ei + np.log(np.maximum(kept, 1e-12)), kept, mean + 2.5 * sd, best)

    @property
    def _limits(self) -> list[str]:
        return [limit.name for limit in self._objective.limits]

    def _expected(self, options: Sequence[Mapping[str, Scalar]]) -> list[Expected]:
        return [self._prior.expect(each) for each in options]

    def _of_value(self, seen: Places, foreseen: Array) -> Process:
        shift = drift.of(self._measured, self._objective)
        value = self._objective.value
        values = np.array([value(t.measurements) - shift.at(t.number) for t in self._measured])
        # Candidates that the prior cannot tell apart are told apart by what was measured.
        process = self._fit(_VALUE, seen.x, values - foreseen)
        if not self._under_way:
            return process
        waiting = Places.of(self._space, self._under_way)
        mean, _ = process.predict(waiting.x)
        x = np.concatenate([seen.x, waiting.x])
        return self._fit(_VALUE, x, np.concatenate([values - foreseen, mean]))

    def _limit_kept(
        self, name: str, seen: Places, foreseen: Sequence[Expected], places: Places,
        expected: Sequence[Expected],
    ) -> Array:  # fmt: skip
        """The probability that a limit is kept: a process on its log excess."""
        told = [self._objective.broken(t.measurements)[name] for t in self._measured]
        residual = np.clip(told, -5, 5) - _excess(foreseen, name)
        mean, sd = self._fit(name, seen.x, residual, usual=0.15).predict(places.x)
        return gaussian.probability_below_zero(mean + _excess(expected, name), sd)

    def _fit(self, name: str, x: Array, y: Array, usual: float = 0.05) -> Process:
        known = self._alike.get(name)
        found = gaussian.fit(x, y, usual) if known is None else gaussian.like(known, x, y)
        self.fitted[name] = found
        return found


def _value(expected: Sequence[Expected]) -> Array:
    return np.array([each.value for each in expected])


def _excess(expected: Sequence[Expected], name: str) -> Array:
    return np.array([each.excesses.get(name, 0.0) for each in expected])
