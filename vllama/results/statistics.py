"""How much worse one set of engine starts is than another, and how sure that is.

All is done on logarithms, so that a change is a ratio and twice as fast is as far from 1 as
twice as slow. A start stands for the median of its blocks, so that one hiccup does not count.
Student's t on pairs of starts where both sides ran in one session (Student 1908), else Welch's
(Welch 1947); several tests are corrected as Holm does (1979).
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

Starts = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Estimate:
    """`worse`: how many times worse, above 1 is worse.

    Each bound of `ci90` holds with 95 % on its own side, and `p` is the one-sided probability
    of a change for the worse like this where there is none: a gate asks in one direction only.
    Both are None with fewer than two starts on a side.
    """

    worse: float
    ci90: tuple[float, float] | None
    p: float | None
    baseline: float
    candidate: float
    starts: int


def paired(baseline: Starts, candidate: Starts, *, lower: bool) -> Estimate:
    """Compare starts that were made in pairs; each holds the values of its blocks."""
    old, new = _logs(baseline), _logs(candidate)
    sign = 1.0 if lower else -1.0
    changes = [sign * (b - a) for a, b in zip(old, new, strict=True)]
    count = len(changes)
    if count < 2:
        return _estimate(old, new, sign, None, 0.0)
    spread = _deviation(changes) / math.sqrt(count)
    return _estimate(old, new, sign, spread, count - 1)


def welch(baseline: Starts, candidate: Starts, *, lower: bool) -> Estimate:
    """Compare independent starts; each holds the values of its blocks."""
    old, new = _logs(baseline), _logs(candidate)
    sign = 1.0 if lower else -1.0
    if len(old) < 2 or len(new) < 2:
        return _estimate(old, new, sign, None, 0.0)
    one, other = _deviation(old) ** 2 / len(old), _deviation(new) ** 2 / len(new)
    spread = math.sqrt(one + other)
    freedom = (
        (one + other) ** 2 / (one**2 / (len(old) - 1) + other**2 / (len(new) - 1))
        if spread
        else float(len(old) + len(new) - 2)
    )
    return _estimate(old, new, sign, spread, freedom)


def holm(probabilities: Sequence[float | None]) -> list[float | None]:
    """Each probability, corrected for there being several; None stays None."""
    known = sorted((p, i) for i, p in enumerate(probabilities) if p is not None)
    adjusted: list[float | None] = [None] * len(probabilities)
    highest = 0.0
    for rank, (p, index) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        adjusted[index] = highest
    return adjusted


def _estimate(
    old: Sequence[float], new: Sequence[float], sign: float, spread: float | None, freedom: float
) -> Estimate:
    before, after = _mean(old), _mean(new)
    change = sign * (after - before)
    interval: tuple[float, float] | None = None
    p: float | None = None
    if spread is not None:
        reach = float(stats.t.ppf(0.95, freedom)) * spread
        interval = (math.exp(change - reach), math.exp(change + reach))
        p = float(stats.t.sf(change / spread, freedom)) if spread else float(change <= 0)
    return Estimate(
        math.exp(change), interval, p, math.exp(before), math.exp(after), min(len(old), len(new))
    )


def _logs(starts: Starts) -> list[float]:
    return [statistics.median(math.log(v) for v in blocks) for blocks in starts]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _deviation(values: Sequence[float]) -> float:
    middle = _mean(values)
    return math.sqrt(math.fsum((v - middle) ** 2 for v in values) / (len(values) - 1))
