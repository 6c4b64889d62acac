"""Objective: which of two measured configurations is the better one. Pure arithmetic."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from vllama.bench.measurement import Measurement
from vllama.errors import UsageError
from vllama.tuner.slo import Slo

Measured: TypeAlias = Mapping[str, Measurement]
TOLERATED_FAILURES = 0.01
JOINT, COMPLIANT = "joint", 0.99


def _throughput(measured: Measurement) -> float:
    return math.log(max(measured.output_tokens_per_s, 1e-9))


def _responsiveness(measured: Measurement) -> float:
    """Minus the log of the geometric mean of the times a user waits: first token, each next.

    Means, for they are there in every sample and hold the tail; limits are for quantiles.
    """
    times = [q.mean for q in (measured.ttft_s, measured.tpot_s) if q is not None]
    if not times:
        return -math.inf
    return -sum(math.log(max(t, 1e-9)) for t in times) / len(times)


def _balance(measured: Measurement) -> float:
    return (_throughput(measured) + _responsiveness(measured)) / 2


def _goodput(measured: Measurement) -> float:
    rate = measured.goodput_per_s
    return math.log(max(measured.requests_per_s if rate is None else rate, 1e-9))


_GOALS: dict[str, tuple[str, Callable[[Measurement], float]]] = {
    "throughput": ("output_tokens_per_s", _throughput),
    "latency": ("responsiveness", _responsiveness),
    "balanced": ("balance", _balance),
    "capacity": ("goodput_per_s", _goodput),
}
NAMES = tuple(_GOALS)


@dataclass(frozen=True, slots=True)
class Objective:
    """What to maximise (`throughput`, `latency`, `balanced`, `capacity`), within `limits`."""

    name: str
    limits: tuple[Slo, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in _GOALS:
            raise UsageError(f"no objective '{self.name}'", f"There are: {', '.join(NAMES)}.")

    @property
    def metric(self) -> str:
        """The name under which a gain is reported."""
        return _GOALS[self.name][0]

    def value(self, measured: Measured) -> float:
        """A log: the mean over the workloads, so that a difference is the log of a ratio.

        The ratio is the geometric mean of the workloads' ratios, whatever their scale.
        """
        if not measured:
            return -math.inf
        goal = _GOALS[self.name][1]
        return sum(goal(m) for m in measured.values()) / len(measured)

    def ratio(self, measured: Measured, baseline: Measured) -> float:
        """How many times better than `baseline`, above 1 is better."""
        return math.exp(self.value(measured) - self.value(baseline))

    def broken(self, measured: Measured) -> dict[str, float]:
        """By how much (as a log) each limit is exceeded; at or below 0 it holds."""
        found = {"failed": _failures(measured)}
        for limit in self.limits:
            found[limit.name] = max((limit.excess(m) for m in measured.values()), default=math.inf)
        if self.name == "capacity":
            found[JOINT] = COMPLIANT - min(map(_compliance, measured.values()), default=1.0)
        return found

    def holds(self, measured: Measured) -> bool:
        """Whether every limit is kept."""
        return bool(measured) and all(excess <= 0 for excess in self.broken(measured).values())

    def named(self, name: str) -> "Objective":
        """Another goal within the same limits."""
        return Objective(name, self.limits)


def _compliance(measured: Measurement) -> float:
    """The share of the time in which all limits held at once; all of it where none is joint."""
    share = measured.joint_compliance
    return 1.0 if share is None else share


def _failures(measured: Measured) -> float:
    """The largest share of failed requests, above what is tolerated."""
    shares = [m.failed / max(m.failed + m.completed, 1) for m in measured.values()]
    return max(shares, default=0.0) - TOLERATED_FAILURES
