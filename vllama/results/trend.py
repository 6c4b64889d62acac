"""A metric over time, and where it changed for good.

Change points are found as Killick's survey calls binary segmentation: the split that tells
the two sides apart best is kept when hardly any shuffling of the same values has one as
clear, and each side is then searched in turn.
"""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import groupby

from vllama.results import metrics
from vllama.results.record import Record

SHORTEST = 3
SHUFFLES = 199
ALPHA = 0.02


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement of the metric."""

    at: datetime
    commit: str
    value: float


@dataclass(frozen=True, slots=True)
class Change:
    """From point number `index` on, the metric is `ratio` times what it was before."""

    index: int
    ratio: float


@dataclass(frozen=True, slots=True)
class Series:
    """One metric of one workload on one profile and machine, oldest first."""

    name: str
    metric: str
    points: tuple[Point, ...]

    @property
    def changes(self) -> tuple[Change, ...]:
        """Where it changed, oldest first."""
        return tuple(change_points([p.value for p in self.points]))


def series(records: Iterable[Record], metric: str) -> list[Series]:
    """The metric's course, one series for what may be compared, those with most points first."""
    known = [
        (_what(r), Point(r.started_at, r.git_commit or "", value))
        for r in records
        if r.measurement is not None
        and (value := metrics.value(asdict(r.measurement), metric)) is not None
    ]
    known.sort(key=lambda pair: (pair[0], pair[1].at))
    found = [
        Series(name, metric, tuple(point for _, point in group))
        for name, group in groupby(known, key=lambda pair: pair[0])
    ]
    return sorted(found, key=lambda one: -len(one.points))


def change_points(values: Sequence[float]) -> Iterator[Change]:
    """Where `values` (positive, in order of time) change level."""
    logs = [math.log(v) for v in values]
    yield from _search(logs, 0, random.Random(0))


def _search(logs: Sequence[float], offset: int, dice: random.Random) -> Iterator[Change]:
    clearest = _clearest(logs)
    if clearest is None:
        return
    statistic, index = clearest
    shuffled = list(logs)
    as_clear = 0
    for _ in range(SHUFFLES):
        dice.shuffle(shuffled)
        other = _clearest(shuffled)
        as_clear += other is not None and other[0] >= statistic
    if (as_clear + 1) / (SHUFFLES + 1) > ALPHA:
        return
    before, after = logs[:index], logs[index:]
    yield from _search(before, offset, dice)
    ratio = math.exp(math.fsum(after) / len(after) - math.fsum(before) / len(before))
    yield Change(offset + index, ratio)
    yield from _search(after, offset + index, dice)


def _clearest(logs: Sequence[float]) -> tuple[float, int] | None:
    """The largest between-sides sum of squares over all splits, and the split."""
    count, total = len(logs), math.fsum(logs)
    best: tuple[float, int] | None = None
    left = math.fsum(logs[: SHORTEST - 1])
    for index in range(SHORTEST, count - SHORTEST + 1):
        left += logs[index - 1]
        gap = left / index - (total - left) / (count - index)
        statistic = gap * gap * index * (count - index) / count
        if best is None or statistic > best[0]:
            best = (statistic, index)
    return best


def _what(record: Record) -> str:
    load = record.workload.name if record.workload else ""
    profile = record.profile
    model = profile.model.rstrip("/").rpartition("/")[2]
    parts = (record.machine, model, record.engine, profile.name, profile.digest[:8], load)
    return " · ".join(parts)
