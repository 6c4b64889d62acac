"""Figures that cost next to nothing to add to: plain sums, put in Prometheus' words when asked.

Prometheus' own take a lock and build their labels anew for each of the dozen of a request.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector


class Tally(Collector):
    """Counts by labels. Only for the thread of the event loop."""

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._counts: Counter[tuple[str, ...]] = Counter()

    def add(self, *labels: str, count: int = 1) -> None:
        """Count; none at all makes it known, for a rate is seen only between two figures."""
        self._counts[labels] += count

    def collect(self) -> Iterable[CounterMetricFamily]:
        """As Prometheus wants it."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for labels, count in self._counts.items():
            family.add_metric(labels, count)
        yield family


class Spread(Collector):
    """How long something took, by model: how often up to each of `bounds_s`, and in all."""

    def __init__(self, name: str, text: str, bounds_s: Sequence[float]) -> None:
        self._name, self._text, self._bounds_s = name, text, bounds_s
        self._counts: dict[str, list[int]] = {}
        self._sums_s: dict[str, float] = {}

    def add(self, model: str, took_s: float) -> None:
        """It took so long once."""
        self._of(model)[bisect_left(self._bounds_s, took_s)] += 1
        self._sums_s[model] += took_s

    def add_all(self, model: str, counts: Sequence[int], sum_s: float) -> None:
        """What was counted elsewhere by the same bounds, one more for what was above them all."""
        known = self._of(model)
        for i, count in enumerate(counts):
            known[i] += count
        self._sums_s[model] += sum_s

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """As Prometheus wants it: cumulative."""
        family = HistogramMetricFamily(self._name, self._text, labels=["model"])
        names = [*(str(float(bound_s)) for bound_s in self._bounds_s), "+Inf"]
        for model, counts in self._counts.items():
            total, buckets = 0, []
            for name, count in zip(names, counts, strict=True):
                total += count
                buckets.append((name, float(total)))
            family.add_metric([model], buckets, self._sums_s[model])
        yield family

    def _of(self, model: str) -> list[int]:
        known = self._counts.get(model)
        if known is None:
            known = self._counts[model] = [0] * (len(self._bounds_s) + 1)
            self._sums_s[model] = 0.0
        return known
