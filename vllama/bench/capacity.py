"""Capacity: the most load under which every limit still holds, searched on one running server.

Levels (requests in flight; requests a second where arrivals are open) are doubled or halved
from the workload's own until one holds and one does not, then bisected. Whether a level holds
is decided on the share of requests that kept all limits at once, by Wilson's interval: where
the interval does not decide, the level is measured longer.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from vllama.bench.measurement import CANCELLED, Run, keeps, summarize
from vllama.bench.slo import Slo
from vllama.bench.workload import Workload

PROBES = 8
NEAR = 1.05
# How much longer than at first a level is measured at most.
LONGEST = 4
IN_FLIGHT, A_SECOND = "requests in flight", "requests/s"
_REQUIRED = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_JUDGED_EACH = ("ttft", "tpot", "e2e")
_Z95 = 1.959964


def level_of(workload: Workload) -> float:
    """The load of a workload as one number."""
    return workload.rate_per_s or float(workload.concurrency)


def at(workload: Workload, level: float) -> Workload:
    """The workload at another level."""
    if workload.rate_per_s:
        return replace(workload, rate_per_s=level)
    return replace(workload, concurrency=round(level))


def following(workload: Workload, held: float | None, broke: float | None) -> float | None:
    """Where to look next; None when the answer is near enough."""
    whole = not workload.rate_per_s
    if held is None:
        lower = (broke or 1.0) / 2
        return None if whole and lower < 1 else float(round(lower)) if whole else lower
    if broke is None:
        return 2 * held
    if broke <= NEAR * held or (whole and broke - held <= 1):
        return None
    middle = math.sqrt(held * broke)
    return float(min(max(round(middle), held + 1), broke - 1)) if whole else middle


def wilson(kept: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share; all of 0 to 1 where nothing was seen."""
    if of == 0:
        return 0.0, 1.0
    share, square = kept / of, _Z95**2
    middle = (share + square / (2 * of)) / (1 + square / of)
    half = _Z95 * math.sqrt(share * (1 - share) / of + square / (4 * of**2)) / (1 + square / of)
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True, slots=True)
class Share:
    """How many of the requests kept the limits of one quantile at once, and how many must."""

    quantile: str
    kept: int
    requests: int
    ci95: tuple[float, float]

    @property
    def required(self) -> float:
        return _REQUIRED[self.quantile]

    @property
    def holds(self) -> bool:
        return self.requests > 0 and self.kept >= self.required * self.requests

    @property
    def is_certain(self) -> bool:
        """Whether what is required lies outside of the interval."""
        low, high = self.ci95
        return low >= self.required or high < self.required


@dataclass(frozen=True, slots=True)
class Probe:
    """One level, all that was measured at it, and whether the limits held."""

    level: float
    runs: tuple[Run, ...]
    shares: tuple[Share, ...]
    holds: bool
    certain: bool

    def to_json(self) -> dict[str, Any]:
        """For the document."""
        shown = summarize(*self.runs)
        return {
            "level": self.level, "holds": self.holds, "certain": self.certain,
            "shares": [asdict(s) | {"required": s.required} for s in self.shares],
            "requests": shown.completed + shown.failed, "failed": shown.failed,
            "output_tokens_per_s": shown.output_tokens_per_s, "seconds": shown.duration_s,
        }  # fmt: skip


def judged(level: float, runs: Sequence[Run], limits: Sequence[Slo]) -> Probe:
    """Whether these runs at a level kept the limits; a failed request kept none."""
    shares = tuple(_shares(runs, limits))
    rest = [s for s in limits if s.quantile not in _REQUIRED or s.metric not in _JUDGED_EACH]
    shown = summarize(*runs)
    others = all(s.excess(shown) <= 0 for s in rest)
    holds = others and all(s.holds for s in shares)
    surely_not = any(s.is_certain and not s.holds for s in shares)
    certain = surely_not or all(s.is_certain for s in shares)
    return Probe(level, tuple(runs), shares, holds, certain)


def _shares(runs: Sequence[Run], limits: Sequence[Slo]) -> list[Share]:
    found = []
    every = [s for run in runs for s in run.samples if s.measured and s.error != CANCELLED]
    for quantile in _REQUIRED:
        slo = [
            (s.metric, s.limit_s)
            for s in limits
            if s.quantile == quantile and s.metric in _JUDGED_EACH
        ]
        if slo:
            kept = sum(keeps(sample, slo) for sample in every)
            found.append(Share(quantile, kept, len(every), wilson(kept, len(every))))
    return found


class Loaded(Protocol):
    """A server that can be put under load."""

    async def observe(self, workload: Workload) -> Run:
        """Load it, and show every sample."""
        ...


class Search:
    """The search on one server with one workload; `on_probe` is told each level as it is done."""

    def __init__(self, workload: Workload, limits: Sequence[Slo], window_s: float) -> None:
        self.workload = workload
        self.limits = tuple(limits)
        self.probes: list[Probe] = []
        self.on_probe: Callable[[Probe], None] = lambda _: None
        self._window_s = window_s

    async def run(self, server: Loaded) -> None:
        """Look until the answer is near enough, in at most 8 levels.

        Raises:
            EngineFailed: the server died, or answered nothing.
        """
        level: float | None = level_of(self.workload)
        while level is not None and len(self.probes) < PROBES:
            self.probes.append(await self._probe(server, level))
            self.on_probe(self.probes[-1])
            level = self._next()

    def _next(self) -> float | None:
        held, broke = self.held, self.broke
        return following(
            self.workload, held.level if held else None, broke.level if broke else None
        )

    async def _probe(self, server: Loaded, level: float) -> Probe:
        load = replace(at(self.workload, level), requests=None, duration_s=self._window_s)
        runs = [await server.observe(load)]
        while not (found := judged(level, runs, self.limits)).certain and len(runs) < LONGEST:
            runs.append(await server.observe(load))
        return found

    @property
    def held(self) -> Probe | None:
        """The highest level that held; None while none did."""
        return max((p for p in self.probes if p.holds), key=lambda p: p.level, default=None)

    @property
    def broke(self) -> Probe | None:
        """The lowest level that did not hold."""
        return min((p for p in self.probes if not p.holds), key=lambda p: p.level, default=None)

    def to_json(self, target: str) -> dict[str, Any]:
        """For the document: the answer, and what it rests on."""
        held, broke = self.held, self.broke
        return {
            "target": target,
            "workload": self.workload.name,
            "limits": [str(s) for s in self.limits],
            "unit": A_SECOND if self.workload.rate_per_s else IN_FLIGHT,
            "capacity": held.level if held else None,
            "broken_at": broke.level if broke else None,
            "finished": self._next() is None,
            "certain": all(p.certain for p in (held, broke) if p is not None),
            "probes": [p.to_json() for p in self.probes],
        }
