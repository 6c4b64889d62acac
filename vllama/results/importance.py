"""Which options mattered in a search: the share of the value's ranks that each explains."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from vllama.results.search import Trial

ENOUGH = 10
TRUSTED = 30


def importance(search: Sequence[Trial]) -> list[tuple[str, float]]:
    """(option, share from 0 to 1), largest first; empty below `ENOUGH` complete trials.

    A number's share is Spearman's rho squared; any other's is the epsilon-squared of
    Kruskal and Wallis, (H - k + 1) / (n - k) for k values in n trials (Tomczak 2014). Both
    look at one option alone, so what options do together is not seen.
    """
    complete = [t for t in search if t.complete]
    if len(complete) < ENOUGH:
        return []
    ranks = pd.Series([t.value for t in complete], dtype=float).rank()
    names = sorted({name for t in complete for name in t.options})
    shares = [(n, _share([t.options.get(n) for t in complete], ranks)) for n in names]
    return sorted(((n, s) for n, s in shares if s is not None), key=lambda pair: -pair[1])


def _share(settings: Sequence[Any], ranks: pd.Series) -> float | None:
    """None where the option was never varied or each trial has a value of its own."""
    if all(isinstance(s, int | float) and not isinstance(s, bool) for s in settings):
        numbers = pd.Series(settings, dtype=float).rank()
        if numbers.nunique() < 2 or ranks.nunique() < 2:
            return None
        return float(np.corrcoef(numbers, ranks)[0, 1] ** 2)
    groups = ranks.groupby(pd.Series([repr(s) for s in settings]))
    count, kinds = len(ranks), groups.ngroups
    if kinds < 2 or kinds >= count or ranks.nunique() < 2:
        return None
    between = float((groups.size() * (groups.mean() - ranks.mean()) ** 2).sum())
    h = (count - 1) * between / float(((ranks - ranks.mean()) ** 2).sum())
    return float(min(1.0, max(0.0, (h - kinds + 1) / (count - kinds))))
