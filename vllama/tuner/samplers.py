"""Samplers by name: who proposes the next configuration."""

import warnings
from collections.abc import Callable

import optuna
from optuna.samplers import BaseSampler

from vllama.errors import UsageError
from vllama.tuner.model_sampler import ModelSampler
from vllama.tuner.objective import Objective
from vllama.tuner.prior import Flat, Prior
from vllama.tuner.space import Space

OURS = "gp"


def make(
    name: str, space: Space, seed: int, objective: Objective, prior: Prior | None = None
) -> BaseSampler:
    """The sampler called `name`; only `gp`, which is ours, listens to the prior.

    Raises:
        UsageError: there is none.
    """
    if name == OURS:
        return ModelSampler(space, objective, prior or Flat(), seed)
    if name not in _MAKERS:
        raise UsageError(f"no sampler '{name}'", f"There are: {', '.join(NAMES)}.")
    return _MAKERS[name](space, seed)


def _tpe(_: Space, seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        # It is called experimental for years; knobs here do depend on each other.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=5)


def _nsga2(_: Space, seed: int) -> BaseSampler:
    return optuna.samplers.NSGAIISampler(seed=seed, population_size=8)


def _random(_: Space, seed: int) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


def _grid(space: Space, seed: int) -> BaseSampler:
    steps = {k.name: k.choices if k.kind == "categorical" else range(len(k.choices))
             for k in space.knobs}  # fmt: skip
    return optuna.samplers.GridSampler(steps, seed=seed)


_MAKERS: dict[str, Callable[[Space, int], BaseSampler]] = {
    "tpe": _tpe,
    "nsga2": _nsga2,
    "random": _random,
    "grid": _grid,
}
NAMES = (OURS, *_MAKERS)
