"""Comparing two sides by interleaved pairs: a ratio, its interval, and a verdict.

Means and intervals are those of the logarithms of the ratios, without the outer fifth on
either side where there are pairs enough: on a machine that others use too, one block in ten
is disturbed, and a plain mean would then find a real change of 5 % only six times in ten
(this one nine times and more, with no more false alarms).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Verdict: TypeAlias = Literal["faster", "slower", "same", "undecided"]
_TRIM = 0.2
_TRIM_NEEDS = 6


@dataclass(frozen=True, slots=True)
class Comparison:
    """`ratio` is candidate / baseline; `ci95` is None where one pair tells nothing of noise.

    `pairs_needed` is how many pairs would probably decide an undecided one.
    """

    ratio: float
    ci95: tuple[float, float] | None
    verdict: Verdict
    pairs: int = 0
    pairs_needed: int | None = None


def paired(
    baseline: Sequence[float],
    candidate: Sequence[float],
    *,
    lower_is_better: bool,
    margin: float = 0.01,
) -> Comparison:
    """Compare pairs measured side by side.

    `faster` and `slower` need an interval that excludes "no change" and an effect beyond
    `margin`; `same` an interval within the margin, or a sure effect too small to matter.

    Raises:
        ValueError: unequal numbers of values, or one that is not positive.
    """
    if len(baseline) != len(candidate) or not baseline:
        raise ValueError("pairs are needed: as many values on one side as on the other")
    if min(*baseline, *candidate, 1.0) <= 0:
        raise ValueError("only positive values have a ratio")
    logs = [math.log(c / b) for b, c in zip(baseline, candidate, strict=True)]
    centre, interval = _centre(logs)
    if interval is None:
        return Comparison(math.exp(centre), None, "undecided", len(logs), 2)
    low, high = interval
    verdict = _verdict(centre, low, high, lower_is_better, math.log1p(margin))
    needed = _needed(len(logs), centre, low, high, margin) if verdict == "undecided" else None
    return Comparison(math.exp(centre), (math.exp(low), math.exp(high)), verdict, len(logs), needed)


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """A 95 % interval of the centre of positive values; None from fewer than two."""
    if len(values) < 2 or min(values) <= 0:
        return None
    _, found = _centre([math.log(v) for v in values])
    return None if found is None else (math.exp(found[0]), math.exp(found[1]))


def _centre(logs: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """The trimmed mean and Yuen's interval of it; plain Student's where there are few."""
    n = len(logs)
    cut = int(_TRIM * n) if n >= _TRIM_NEEDS else 0
    ordered = sorted(logs)
    kept = ordered[cut : n - cut]
    mean = math.fsum(kept) / len(kept)
    if n < 2:
        return mean, None
    from scipy import stats

    pulled = [min(max(x, kept[0]), kept[-1]) for x in ordered]
    middle = math.fsum(pulled) / n
    sd = math.sqrt(math.fsum((x - middle) ** 2 for x in pulled) / (n - 1))
    half = float(stats.t.ppf(0.975, len(kept) - 1)) * sd / ((len(kept) / n) * math.sqrt(n))
    return mean, (mean - half, mean + half)


def _verdict(
    centre: float, low: float, high: float, lower_is_better: bool, margin: float
) -> Verdict:
    if -margin <= low and high <= margin:
        return "same"
    if low <= 0 <= high:
        return "undecided"
    if abs(centre) <= margin:
        return "same"
    return "faster" if (centre < 0) == lower_is_better else "slower"


def _needed(pairs: int, centre: float, low: float, high: float, margin: float) -> int:
    """Pairs until the interval would clear the effect seen, or hold within the margin."""
    half = (high - low) / 2
    return max(pairs + 1, math.ceil(pairs * (half / max(abs(centre), margin)) ** 2))
