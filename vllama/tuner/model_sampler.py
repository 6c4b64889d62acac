"""Our own sampler: a Gaussian process on what the analytic prior gets wrong.

It looks at every configuration that may work, and takes the one with the largest expected
improvement a second, times the probability that it starts and keeps the limits.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import TrialState

from vllama.profile import Scalar
from vllama.tuner import start_times
from vllama.tuner.belief import Belief, Places
from vllama.tuner.gaussian import Array, Mask, Process
from vllama.tuner.objective import Objective
from vllama.tuner.prior import Prior
from vllama.tuner.space import Space
from vllama.tuner.study import Outlook, distribution, finished, value_of
from vllama.tuner.trial import Trial, key

MOST = 20_000
DIVERSE = 2
# Beyond the seeds, this many come straight from the prior before the process is believed.
FIRST_FROM_PRIOR = 3
# What comes up with less probability is not started for the sake of others.
LIKELY = 0.5
# Between proposals the scales of the process are fitted anew when so many times as much is known.
REFIT = 1.3


class ModelSampler(BaseSampler):
    """Proposes by the model. `outlook` is what it thought of its last proposal."""

    def __init__(self, space: Space, objective: Objective, prior: Prior, seed: int) -> None:
        self._space = space
        self._objective = objective
        self._prior = prior
        self._random = random.Random(seed)
        self._fallback = RandomSampler(seed=seed)
        self._places = Places.of(space, candidates(space, prior, self._random))
        self._fitted: dict[str, Process] = {}
        self._fitted_to = 0
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
        choice = self._places.choices[at]
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
        tried = {key(t.options) for t in trials} | {key(options) for options in under_way}
        open_ = np.array([k not in tried for k in self._places.keys])
        if not open_.any():
            return None
        belief = self._belief(trials, under_way)
        asked = sum(t.origin == "search" for t in trials)
        if not belief.has_grounds or asked < FIRST_FROM_PRIOR:
            return self._from_prior(belief.prior_worth(self._places), open_, trials)
        found = belief.improvement(self._places)
        self._keep(belief, trials)
        seconds = start_times.expected(self._space, self._places.choices, trials)
        a_second = found.log_expected - np.log(seconds)
        at = int(np.argmax(np.where(open_, a_second, -np.inf)))
        self.outlook = Outlook(float(np.exp(found.log_expected[at])), found.possible(open_))
        return at

    def best_of(self, trials: Sequence[Trial], options: Sequence[Mapping[str, Scalar]]) -> int:
        """The index of the one of `options` to try next, all of which cost the same."""
        is_fresh = len(trials) < REFIT * self._fitted_to
        belief = self._belief(trials, alike=self._fitted if is_fresh else None)
        places = Places.of(self._space, options)
        if not belief.has_grounds:
            return int(np.argmax(belief.prior_worth(places)))
        found = belief.improvement(places)
        if not is_fresh:
            self._keep(belief, trials)
        return int(np.argmax(found.log_expected))

    def _keep(self, belief: Belief, trials: Sequence[Trial]) -> None:
        self._fitted, self._fitted_to = belief.fitted, len(trials)

    def starts(self, trials: Sequence[Trial], options: Mapping[str, Scalar]) -> bool:
        """Whether a launch with `options` should come up, by the prior and by what fell."""
        survival = self._belief(trials).starts(Places.of(self._space, [options]))
        return self._prior.expect(options).fits and float(survival[0]) > LIKELY

    def _belief(
        self, trials: Sequence[Trial], under_way: Sequence[Mapping[str, Scalar]] = (),
        alike: Mapping[str, Process] | None = None,
    ) -> Belief:  # fmt: skip
        return Belief(
            self._space, self._objective, self._prior, trials, under_way=under_way, alike=alike
        )

    def _from_prior(self, worth: Array, open_: Mask, trials: Sequence[Trial]) -> int:
        """The best by the prior that differs in two knobs from what was tried."""
        seen = [self._space.choice(t.options) for t in trials if t.options]
        ranked = [int(i) for i in np.argsort(-worth, kind="stable") if open_[i]]
        for at in ranked[:200]:
            choice = self._places.choices[at]
            if all(sum(choice[k] != other[k] for k in choice) >= DIVERSE for other in seen):
                return at
        return ranked[0]


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
