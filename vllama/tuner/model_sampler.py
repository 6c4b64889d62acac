"""Our own sampler: a Gaussian process on what the analytic prior gets wrong.

It looks at every configuration that may work, and takes the one with the largest expected
improvement a second, times the probability that it starts and keeps the limits.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import TrialState

from vllama.profile import Scalar
from vllama.tuner import crashes, drift, gaussian, start_times
from vllama.tuner.gaussian import Array, Mask
from vllama.tuner.objective import Objective
from vllama.tuner.prior import Prior
from vllama.tuner.space import Space
from vllama.tuner.study import Outlook, distribution, finished, value_of
from vllama.tuner.trial import Trial, key

MOST = 20_000
DIVERSE = 2
# Beyond the seeds, this many come straight from the prior before the process is believed.
FIRST_FROM_PRIOR = 3


class ModelSampler(BaseSampler):
    """Proposes by the model. `outlook` is what it thought of its last proposal."""

    def __init__(self, space: Space, objective: Objective, prior: Prior, seed: int) -> None:
        self._space = space
        self._objective = objective
        self._prior = prior
        self._random = random.Random(seed)
        self._fallback = RandomSampler(seed=seed)
        self._candidates = candidates(space, prior, self._random)
        self._choices = [space.choice(c) for c in self._candidates]
        self._x = np.array([space.point(c) for c in self._choices])
        self._keys = [key(c) for c in self._candidates]
        self._index = {k: i for i, k in enumerate(self._keys)}
        self.outlook: Outlook | None = None

    def infer_relative_search_space(
        self,
        study: optuna.Study,  # noqa: ARG002
        trial: optuna.trial.FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        """All knobs together."""
        return {k.name: distribution(k) for k in self._space.knobs}

    def sample_relative(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        search_space: dict[str, BaseDistribution],  # noqa: ARG002
    ) -> dict[str, Any]:
        """The best candidate that was not tried; nothing when all were."""
        at = self.propose(finished(study), self._under_way(study, trial.number))
        if at is None:
            return {}
        choice = self._space.choice(self._candidates[at])
        return {
            k.name: choice[k.name] if k.kind == "categorical" else k.choices.index(choice[k.name])
            for k in self._space.knobs
        }

    def sample_independent(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """For what was not proposed: at random."""
        return self._fallback.sample_independent(study, trial, param_name, param_distribution)

    def _under_way(self, study: optuna.Study, number: int) -> list[dict[str, Scalar]]:
        """What others measure at the moment."""
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        names = {k.name for k in self._space.knobs}
        return [
            self._space.launch({k.name: value_of(k, t.params[k.name]) for k in self._space.knobs})
            for t in running
            if t.number != number and t.params.keys() == names
        ]

    def propose(
        self, trials: Sequence[Trial], under_way: Sequence[Mapping[str, Scalar]] = ()
    ) -> int | None:
        """The index of the candidate to try next, other than what is `under_way`."""
        pending = {key(options) for options in under_way}
        tried = {key(t.options) for t in trials} | pending
        open_ = np.array([k not in tried for k in self._keys])
        if not open_.any():
            return None
        expected = self._expected(trials)
        worth = expected.worth(self._objective)
        tried_choices = [(self._space.snapped(t.options), t) for t in trials]
        started = crashes.survival(self._space.knobs, self._choices, tried_choices)
        if (
            len(self._measured(trials)) < 2
            or sum(t.origin == "search" for t in trials) < FIRST_FROM_PRIOR
        ):
            return self._from_prior(worth + np.log(started), open_, trials)
        waiting = [self._index[k] for k in sorted(pending & self._index.keys())]
        return self._by_improvement(trials, expected, started, open_, waiting)

    def _measured(self, trials: Sequence[Trial]) -> list[Trial]:
        return [t for t in trials if t.measurements and key(t.options) in self._index]

    def _expected(self, trials: Sequence[Trial]) -> "_Expected":
        prior = self._prior.after(trials)
        each = [prior.expect(c) for c in self._candidates]
        names = sorted({name for e in each for name in e.excesses})
        return _Expected(
            np.array([e.value for e in each]),
            {n: np.array([e.excesses.get(n, 0.0) for e in each]) for n in names},
        )

    def _from_prior(self, worth: Array, open_: Mask, trials: Sequence[Trial]) -> int:
        """The best by the prior that differs in two knobs from what was tried."""
        seen = [self._space.choice(t.options) for t in trials if t.options]
        ranked = [int(i) for i in np.argsort(-worth, kind="stable") if open_[i]]
        for at in ranked[:200]:
            choice = self._space.choice(self._candidates[at])
            if all(sum(choice[k] != other[k] for k in choice) >= DIVERSE for other in seen):
                return at
        return ranked[0]

    def _by_improvement(
        self,
        trials: Sequence[Trial],
        expected: "_Expected",
        started: Array,
        open_: Mask,
        waiting: Sequence[int] = (),
    ) -> int:
        measured = self._measured(trials)
        rows = np.array([self._index[key(t.options)] for t in measured])
        shift = drift.of(measured, self._objective)
        values = np.array(
            [self._objective.value(t.measurements) - shift.at(t.number) for t in measured]
        )
        # Candidates that the prior cannot tell apart are told apart by what was measured.
        process = gaussian.fit(self._x[rows], values - expected.value[rows])
        mean, sd = process.predict(self._x)
        if waiting:
            # Believe meanwhile that what is under way turns out as foreseen.
            at_all = np.concatenate([rows, np.array(waiting)])
            believed = np.concatenate([values - expected.value[rows], mean[list(waiting)]])
            mean, sd = gaussian.fit(self._x[at_all], believed).predict(self._x)
        mean = mean + expected.value
        kept = started * self._limits_kept(measured, rows, expected)
        held = [i for i, t in zip(rows, measured, strict=True) if t.state != "infeasible"]
        best = float(mean[held].max()) if held else float(mean[rows].min())
        log_ei = gaussian.log_expected_improvement(mean, sd, best) + np.log(np.maximum(kept, 1e-12))
        a_second = log_ei - np.log(start_times.expected(self._space, self._choices, trials))
        at = int(np.argmax(np.where(open_, a_second, -np.inf)))
        likely = open_ & (kept > 0.1)
        reach = float((mean + 2.5 * sd)[likely].max()) if likely.any() else best
        self.outlook = Outlook(float(np.exp(log_ei[at])), reach - best)
        return at

    def _limits_kept(self, measured: Sequence[Trial], rows: Array, expected: "_Expected") -> Array:
        """The probability that every limit is kept: a process for each, on its log excess."""
        kept = np.ones(len(self._candidates))
        for limit in self._objective.limits:
            seen = [self._objective.broken(t.measurements)[limit.name] for t in measured]
            base = expected.excesses.get(limit.name, np.zeros(len(self._candidates)))
            process = gaussian.fit(self._x[rows], np.clip(seen, -5, 5) - base[rows], usual=0.15)
            mean, sd = process.predict(self._x)
            kept = kept * gaussian.probability_below_zero(mean + base, sd)
        return kept


@dataclass(frozen=True, slots=True)
class _Expected:
    value: Array
    excesses: Mapping[str, Array]

    def worth(self, objective: Objective) -> Array:
        """The value, far less where the prior sees a limit broken."""
        broken = np.zeros(len(self.value))
        for limit in objective.limits:
            broken = broken + np.maximum(self.excesses.get(limit.name, np.zeros(1)), 0)
        result: Array = self.value - 5 * broken
        return result


def candidates(space: Space, prior: Prior, rng: random.Random) -> list[dict[str, Scalar]]:
    """Every configuration that may work; a sample of them where there are too many."""
    if space.size <= MOST:
        every = list({key(c): c for c in space.combinations()}.values())
    else:
        every = _sample(space, rng)
    fitting = [c for c in every if not c or prior.expect(c).fits]
    return fitting or every


def _sample(space: Space, rng: random.Random) -> list[dict[str, Scalar]]:
    """At random, and all around the seeds."""
    found = {key(s): dict(s) for s in space.seeds}
    for seed in space.seeds:
        found |= {key(n): n for n in space.neighbourhood(seed)}
    for _ in range(MOST):
        options = space.launch({k.name: rng.choice(k.choices) for k in space.knobs})
        if space.check(options) is None:
            found[key(options)] = options
    return list(found.values())
