"""A search as the JSON of `vllama tune` tells it: its trials, their values, its verdict."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vllama.results import metrics

THROUGHPUT = "output_tokens_per_s"


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial. `value` is in the unit of the search's metric, None where none was reached."""

    number: int
    options: Mapping[str, Any]
    state: str
    measurements: Mapping[str, Mapping[str, Any]]
    value: float | None
    failure_kind: str = ""
    failure: str = ""

    @property
    def complete(self) -> bool:
        """Whether it counts: measured, and within the limits that were set."""
        return self.state == "complete" and self.value is not None


def metric(tune: Mapping[str, Any]) -> str:
    """The metric that the search compares by."""
    return str((tune.get("gain") or {}).get("metric") or THROUGHPUT)


def trials(tune: Mapping[str, Any]) -> list[Trial]:
    """The trials in their order."""
    name = metric(tune)
    read = []
    for document in tune.get("trials") or ():
        failure = document.get("failure") or {}
        measurements = document.get("measurements") or {}
        given = document.get("value")
        read.append(
            Trial(
                number=int(document["number"]),
                options=document.get("options") or {},
                state=str(document["state"]),
                measurements=measurements,
                value=over_workloads(measurements, name) if given is None else float(given),
                failure_kind=str(failure.get("kind") or ""),
                failure=str(failure.get("message") or ""),
            )
        )
    return sorted(read, key=lambda trial: trial.number)


def over_workloads(measurements: Mapping[str, Mapping[str, Any]], name: str) -> float | None:
    """The geometric mean of a metric over workloads; throughput's where it is not theirs."""
    for candidate in (name, THROUGHPUT):
        values = [metrics.value(m, candidate) for m in measurements.values()]
        if values and all(v is not None and v > 0 for v in values):
            return math.exp(sum(math.log(v) for v in values if v) / len(values))
    return None


def best_so_far(search: Sequence[Trial], *, lower: bool) -> list[tuple[int, float]]:
    """(number, best value up to it) of every complete trial."""
    better = min if lower else max
    steps: list[tuple[int, float]] = []
    for trial in search:
        if trial.complete and trial.value is not None:
            best = better(steps[-1][1], trial.value) if steps else trial.value
            steps.append((trial.number, best))
    return steps


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (rate, latency) that no other beats in both, by rising rate."""
    kept: list[int] = []
    lowest = math.inf
    for index in sorted(range(len(points)), key=lambda i: (-points[i][0], points[i][1])):
        if points[index][1] < lowest:
            kept.append(index)
            lowest = points[index][1]
    return kept[::-1]


def differ(tune: Mapping[str, Any]) -> bool:
    """Whether the best has other options than the default."""
    sides = [tune.get(key) or {} for key in ("baseline", "best")]
    return (sides[0].get("options") or {}) != (sides[1].get("options") or {})


def default_won(tune: Mapping[str, Any]) -> bool:
    """Whether nothing beat the default beyond noise: a legal result."""
    baseline, best, gain = tune.get("baseline"), tune.get("best"), tune.get("gain")
    if not baseline or not best:
        return False
    if not differ(tune):
        return True
    interval = (gain or {}).get("ci95")
    return interval is not None and float(interval[0]) <= 1


def verdict(tune: Mapping[str, Any]) -> str:
    """The result in one or two sentences."""
    if not tune.get("baseline"):
        return "The default could not be measured, so nothing can be said about a gain."
    if not tune.get("best"):
        return "No trial was complete: there is nothing better to offer than the default."
    gain = tune.get("gain") or {}
    if not differ(tune) and sum(trial.complete for trial in trials(tune)) < 2:
        return "Only the default was measured: there was nothing to compare it with."
    if default_won(tune):
        closest = differ(tune) and gain.get("ci95")
        shown = f" The closest came to {_gain(gain)}." if closest else ""
        return f"The default was best: nothing beat it beyond noise.{shown}"
    if not gain.get("ratio"):
        return "A best setting was found, but it was not compared with the default again."
    what = metrics.label(metric(tune))
    if not gain.get("ci95"):
        return f"Best is {_gain(gain)} the default in {what}; noise was not estimated."
    return f"Best beats the default in {what}: {_gain(gain)}."


def _gain(gain: Mapping[str, Any]) -> str:
    interval = gain.get("ci95")
    if not interval:
        return metrics.ratio(gain["ratio"])
    low, high = (metrics.ratio(bound) for bound in interval)
    return f"{metrics.ratio(gain['ratio'])} (95 % interval {low} to {high})"
