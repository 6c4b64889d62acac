"""From blocks to results and verdicts: pure arithmetic over what a contest yielded."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import geometric_mean
from typing import Any

from vllama.bench.compare import Comparison, interval, paired
from vllama.bench.contest import Block
from vllama.bench.measurement import INVALID, Measurement, summarize

HIGHER = ("output_tokens_per_s", "requests_per_s", "total_tokens_per_s")
LOWER = ("ttft_s.p50", "ttft_s.p95", "tpot_s.p50", "e2e_s.p50", "e2e_s.p95")
METRICS = HIGHER + LOWER
COMPARED = ("output_tokens_per_s", "requests_per_s", "ttft_s.p50", "tpot_s.p50", "e2e_s.p50")
# With so many fresh starts, starts are the pairs: blocks of one start are not independent.
_STARTS_AS_PAIRS = 3
_FEW_TOKENS = 2
_SHARE = 0.005


@dataclass(frozen=True, slots=True)
class Result:
    """All blocks of one workload on one target."""

    target: str
    workload: str
    blocks: tuple[Block, ...]
    each: tuple[Measurement, ...]
    measurement: Measurement

    def series(self, metric: str) -> list[float] | None:
        """The metric in every block; None where one lacks it."""
        values = [m.metric(metric) for m in self.each]
        return None if any(v is None or v <= 0 for v in values) else [v for v in values if v]

    def to_json(self) -> dict[str, Any]:
        """As `vllama bench --json` prints it, with every block."""
        series = {name: values for name in METRICS if (values := self.series(name))}
        limits = {n: list(ci) for n, v in series.items() if (ci := interval(v)) is not None}
        return {
            "target": self.target,
            "workload": asdict(self.blocks[0].workload),
            "measurement": self.measurement.to_json(),
            "ci95": limits,
            "blocks": [
                {
                    "start": b.start,
                    "block": b.block,
                    "seed": b.workload.seed,
                    "metrics": {n: v[i] for n, v in series.items()},
                }
                for i, b in enumerate(self.blocks)
            ],
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """One metric of one workload, candidate against baseline; `refused` says why not."""

    workload: str
    metric: str
    baseline: str
    candidate: str
    comparison: Comparison | None
    refused: str = ""

    def to_json(self) -> dict[str, Any]:
        """As `vllama bench --json` prints it."""
        named = {
            "workload": self.workload,
            "metric": self.metric,
            "baseline": self.baseline,
            "candidate": self.candidate,
        }
        if self.comparison is None:
            nothing = {"ratio": None, "ci95": None, "verdict": "undecided"}
            return named | nothing | {"refused": self.refused}
        return named | asdict(self.comparison)


def results(blocks: Sequence[Block]) -> list[Result]:
    """The blocks of each workload and target, put together."""
    grouped: dict[tuple[str, str], list[Block]] = {}
    for block in blocks:
        grouped.setdefault((block.workload.name, block.target), []).append(block)
    return [
        Result(
            target,
            workload,
            tuple(them),
            tuple(summarize(b.run) for b in them),
            summarize(*(b.run for b in them)),
        )
        for (workload, target), them in grouped.items()
    ]


def verdicts(found: Sequence[Result], baseline: str, candidate: str) -> list[Verdict]:
    """Candidate against baseline in every workload that both have, metric by metric."""
    sides = {(r.workload, r.target): r for r in found}
    judged = []
    for workload in dict.fromkeys(r.workload for r in found):
        pair = sides.get((workload, baseline)), sides.get((workload, candidate))
        if pair[0] is not None and pair[1] is not None:
            judged += _judge(pair[0], pair[1])
    return judged


def mismatch(baseline: Measurement, candidate: Measurement) -> str:
    """Why the two did not do the same work; empty when they did."""
    sides = (baseline, candidate)
    if not all(m.completed for m in sides):
        return "one of them completed no request"
    for what, totals in (
        ("prompt", [m.prompt_tokens for m in sides]),
        ("output", [m.output_tokens for m in sides]),
    ):
        each = [total / m.completed for total, m in zip(totals, sides, strict=True)]
        allowed = max(_SHARE * max(each), _FEW_TOKENS if what == "prompt" else 0)
        if abs(each[0] - each[1]) > allowed:
            return f"not the same work: {each[0]:.1f} against {each[1]:.1f} {what} tokens a request"
    invalid = [reason for m in sides for reason in m.suspect if reason.startswith(INVALID)]
    return invalid[0] if invalid else ""


def _judge(baseline: Result, candidate: Result) -> list[Verdict]:
    names = (baseline.workload, baseline.target, candidate.target)
    refused = mismatch(baseline.measurement, candidate.measurement)
    if refused:
        return [Verdict(names[0], COMPARED[0], names[1], names[2], None, refused)]
    judged = []
    for metric in COMPARED:
        values = _pairs(baseline, candidate, metric)
        if values is None:
            continue
        comparison = paired(*values, lower_is_better=metric in LOWER)
        judged.append(Verdict(names[0], metric, names[1], names[2], comparison))
    return judged


def _pairs(
    baseline: Result, candidate: Result, metric: str
) -> tuple[list[float], list[float]] | None:
    sides = [_by_pair(side, metric, lambda b: (b.start, b.block)) for side in (baseline, candidate)]
    common = [key for key in sides[0] if key in sides[1]]
    if len({start for start, _ in common}) >= _STARTS_AS_PAIRS:
        sides = [_by_pair(side, metric, lambda b: (b.start, 0)) for side in (baseline, candidate)]
        common = [key for key in sides[0] if key in sides[1]]
    if not common:
        return None
    return [sides[0][key] for key in common], [sides[1][key] for key in common]


def _by_pair(
    side: Result, metric: str, key: Callable[[Block], tuple[int, int]]
) -> dict[tuple[int, int], float]:
    values = side.series(metric)
    grouped: dict[tuple[int, int], list[float]] = {}
    for block, value in zip(side.blocks, values or (), strict=False):
        grouped.setdefault(key(block), []).append(value)
    return {k: geometric_mean(v) for k, v in grouped.items()}
