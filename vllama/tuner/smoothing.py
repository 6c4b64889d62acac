"""Smoothing: what trials would have shown without noise, as far as they tell of each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vllama.tuner import drift, gaussian
from vllama.tuner.gaussian import Array
from vllama.tuner.subject import Subject
from vllama.tuner.trial import Trial

# With fewer a process knows no more than the trials themselves, which err by about so much.
FEWEST, USUAL = 6, 0.02


@dataclass(frozen=True, slots=True)
class Smooth:
    """A trial, its log value without noise (mean, standard deviation), and the probability
    that it keeps every limit.
    """

    trial: Trial
    mean: float
    sd: float
    kept: float


def of(subject: Subject, trials: Sequence[Trial]) -> list[Smooth]:
    """The trials that were measured to the end: Gaussian processes through all of them, one
    for the objective's value with the drift of the machine taken off, one for each limit.
    """
    measured = [t for t in trials if t.state in ("complete", "infeasible")]
    if not measured:
        return []
    objective, shift = subject.objective, drift.of(trials, subject.objective)
    points = np.array([subject.space.point(t.options) for t in measured])
    values = [objective.value(t.measurements) - shift.at(t.number) for t in measured]
    mean, sd = _smooth(points, np.array(values))
    kept = np.ones(len(measured))
    for limit in objective.limits:
        told = [objective.broken(t.measurements)[limit.name] for t in measured]
        kept = kept * gaussian.probability_below_zero(*_smooth(points, np.clip(told, -5, 5)))
    return [
        Smooth(t, float(m), float(s), float(k))
        for t, m, s, k in zip(measured, mean, sd, kept, strict=True)
    ]


def _smooth(points: Array, seen: Array) -> tuple[Array, Array]:
    if len(seen) < FEWEST:
        return seen, np.full(len(seen), USUAL)
    return gaussian.fit(points, seen).predict(points)
