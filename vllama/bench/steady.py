"""Whether a load was steady: throughput that rises or falls within the window has no one value."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from statistics import fmean

from vllama.bench.measurement import Run
from vllama.bench.workload import Workload

_PARTS = 10
_FEWEST_REQUESTS = 50
_SHORTEST_S = 2.0
# Student's t of 8 degrees of freedom that chance exceeds, to either side, once in 200 times.
_T = 3.83
_CHANGE = 0.1


def doubt(run: Run, workload: Workload) -> str:
    """Why the window was not steady; empty where it was, or where nobody can tell."""
    changes = workload.rate_to_per_s is not None or workload.trace or workload.replay
    if changes or (workload.arrivals == "bursts" and workload.rate_per_s is not None):
        return ""
    found = trend(run)
    if found is None:
        return ""
    word = "rose" if found > 0 else "fell"
    return (
        f"the throughput {word} by {abs(found):.0%} within the window: it was not steady; "
        "measure longer, on a machine that nobody else uses"
    )


def trend(run: Run) -> float | None:
    """By what share the throughput changed from the window's begin to its end.

    None where the change is small, may be chance, or rests on too little.
    """
    good = sum(s.error is None for s in run.samples)
    if good < _FEWEST_REQUESTS or run.duration_s < _SHORTEST_S:
        return None
    parts = _tokens(run)
    mean = fmean(parts)
    if mean <= 0:
        return None
    middle = (_PARTS - 1) / 2
    spread = sum((i - middle) ** 2 for i in range(_PARTS))
    slope = sum((i - middle) * y for i, y in enumerate(parts)) / spread
    rest = sum((y - mean - slope * (i - middle)) ** 2 for i, y in enumerate(parts))
    error = math.sqrt(rest / (_PARTS - 2) / spread)
    change = slope * (_PARTS - 1) / mean
    return change if abs(change) > _CHANGE and abs(slope) > _T * error else None


def _tokens(run: Run) -> Sequence[float]:
    """Tokens that arrived in each part of the window; what came whole is spread over its life."""
    length_s = run.duration_s / _PARTS
    parts = [0.0] * _PARTS
    for s in run.samples:
        if s.error is not None:
            continue
        tokens = s.output_tokens or s.prompt_tokens
        for i in range(_PARTS):
            begin_s = run.start_s + i * length_s
            if s.chunk_s:
                inside = bisect_right(s.chunk_s, begin_s + length_s) - bisect_left(
                    s.chunk_s, begin_s
                )
                share = inside / len(s.chunk_s)
            else:
                inside_s = min(s.end_s, begin_s + length_s) - max(s.sent_s, begin_s)
                share = max(0.0, inside_s) / max(s.end_s - s.sent_s, 1e-9)
            parts[i] += share * tokens
    return parts
