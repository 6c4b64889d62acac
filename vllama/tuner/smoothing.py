"""Smoothing: what trials would have shown without noise, as far as they tell of each other."""

from collections.abc import Sequence

import numpy as np

from vllama.tuner import drift, gaussian
from vllama.tuner.subject import Subject
from vllama.tuner.trial import Trial

# With fewer a process knows no more than the trials themselves.
FEWEST = 6


def values(subject: Subject, trials: Sequence[Trial]) -> dict[int, float]:
    """The objective's value of each complete trial, by its number: the mean of a Gaussian
    process through all of them, drift of the machine taken off."""
    complete = [t for t in trials if t.complete]
    shift = drift.of(trials, subject.objective)
    seen = [subject.objective.value(t.measurements) - shift.at(t.number) for t in complete]
    if len(complete) >= FEWEST:
        points = np.array([subject.space.point(t.options) for t in complete])
        mean, _ = gaussian.fit(points, np.array(seen)).predict(points)
        seen = [float(value) for value in mean]
    return {t.number: value for t, value in zip(complete, seen, strict=True)}
