"""Comparing two sides by interleaved pairs: a ratio, its interval, and a verdict.

The interval is the exact one of the signed-rank test where there are pairs enough for it
(a neighbour that disturbs one block does not move it), and Student's on logarithms below.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Verdict: TypeAlias = Literal["faster", "slower", "same", "undecided"]
_RANKS_NEED = 6


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
    n = len(logs)
    mean = math.fsum(logs) / n
    if n < 2:
        return mean, None
    if n < _RANKS_NEED:
        from scipy import stats

        sd = math.sqrt(math.fsum((x - mean) ** 2 for x in logs) / (n - 1))
        half = float(stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
        return mean, (mean - half, mean + half)
    walsh = sorted((logs[i] + logs[j]) / 2 for i in range(n) for j in range(i, n))
    m = len(walsh)
    median = (walsh[(m - 1) // 2] + walsh[m // 2]) / 2
    cut = _signed_rank_cut(n)
    return median, (walsh[cut], walsh[m - 1 - cut])


def _signed_rank_cut(n: int) -> int:
    """How many of the ordered Walsh averages lie outside a 95 % interval, on each side."""
    counts = [1]
    for rank in range(1, n + 1):
        longer = [0] * (len(counts) + rank)
        for total, ways in enumerate(counts):
            longer[total] += ways
            longer[total + rank] += ways
        counts = longer
    tail, cut = 0, 0
    for ways in counts:
        tail += ways
        if tail > 0.025 * 2**n:
            break
        cut += 1
    return max(cut - 1, 0)


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
