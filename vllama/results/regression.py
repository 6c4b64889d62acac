"""The regression gate: whether a candidate is worse than a baseline by more than is allowed.

Pure: from two documents of `vllama bench --out` to verdicts. The unit of replication is the
engine start, not the request: repeats on one live server do not hold what differs from one
start to the next.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from vllama.errors import NotComparable
from vllama.results import metrics
from vllama.results.statistics import Estimate, holm, paired, welch

Document: TypeAlias = Mapping[str, Any]
Verdict: TypeAlias = Literal["pass", "regression", "undecided"]
GATED = ("output_tokens_per_s", "ttft_s.p50", "tpot_s.p50", "e2e_s.p50")
ALPHA = 0.05
_SAME_LOAD = (
    "prompt_tokens",
    "output_tokens",
    "concurrency",
    "rate_per_s",
    "shared_prefix_tokens",
    "stream",
)


@dataclass(frozen=True, slots=True)
class Check:
    """One metric of one workload.

    `ratio` is candidate/baseline of the metric as it is; `worse` how many times worse the
    candidate is (above 1 is worse, whatever the metric); each bound of its 90 % interval holds
    with 95 %. `p` is corrected for the number of checks.
    """

    workload: str
    metric: str
    baseline: float
    candidate: float
    ratio: float
    worse: float
    worse_ci90: tuple[float, float] | None
    p: float | None
    starts: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Gate:
    """All checks, and what they come to. `paired` says that both were measured in one run."""

    checks: tuple[Check, ...]
    max_regression: float
    paired: bool
    baseline: str
    candidate: str

    @property
    def verdict(self) -> Verdict:
        """A regression anywhere is one; undecided is not a pass."""
        found = {check.verdict for check in self.checks}
        if "regression" in found:
            return "regression"
        return "undecided" if "undecided" in found or not found else "pass"

    def to_json(self) -> dict[str, Any]:
        """The `gate` of a bench document."""
        return {
            "verdict": self.verdict,
            "max_regression": self.max_regression,
            "paired": self.paired,
            "baseline": self.baseline,
            "candidate": self.candidate,
            "checks": [
                {
                    "workload": c.workload,
                    "metric": c.metric,
                    "baseline": c.baseline,
                    "candidate": c.candidate,
                    "ratio": c.ratio,
                    "worse": c.worse,
                    "worse_ci90": list(c.worse_ci90) if c.worse_ci90 else None,
                    "p": c.p,
                    "starts": c.starts,
                    "verdict": c.verdict,
                }
                for c in self.checks
            ],
        }


def gate(
    baseline: Document,
    candidate: Document,
    *,
    max_regression: float,
    baseline_target: str | None = None,
    candidate_target: str | None = None,
) -> Gate:
    """Hold `candidate` against `baseline`; both may be one document with two targets.

    Targets default to the first of each document. When both sides stand in one document they
    were interleaved and are compared as pairs of starts, otherwise as independent samples.

    Raises:
        NotComparable: naming all that differs besides the thing under test.
    """
    one = _target(baseline, baseline_target)
    other = _target(candidate, candidate_target)
    check_comparable(baseline, candidate)
    before, after = _results(baseline, one), _results(candidate, other)
    missing = sorted(before.keys() - after.keys())
    if missing or not before:
        raise NotComparable(
            f"the candidate was not measured with: {', '.join(missing) or 'any workload'}",
            "Measure it with the workloads of the baseline.",
        )
    is_paired = baseline is candidate
    found = [
        (workload, name, estimate)
        for workload in before
        for name, estimate in _estimates(before[workload], after[workload], is_paired)
    ]
    adjusted = holm([e.p for _, _, e in found])
    checks = tuple(
        _check(workload, name, estimate, p, max_regression)
        for (workload, name, estimate), p in zip(found, adjusted, strict=True)
    )
    return Gate(checks, max_regression, is_paired, one, other)


def relative(document: Document, *, reference: str, subject: str) -> dict[str, Any]:
    """A document whose only target is `subject`, each figure divided by `reference`'s.

    Both were measured in turns within this document, so what the machine did to both falls
    out: such ratios may be kept and compared from one day to another.
    """
    under = _results(document, reference)
    results = []
    for workload, result in _results(document, subject).items():
        below = {(b["start"], b["block"]): b["metrics"] for b in under[workload]["blocks"]}
        blocks = [
            {**b, "metrics": _divided(b["metrics"], below[b["start"], b["block"]])}
            for b in result["blocks"]
            if (b["start"], b["block"]) in below
        ]
        results.append({**result, "blocks": blocks, "measurement": None})
    targets = [t for t in document["targets"] if t["name"] == subject]
    return {**document, "targets": targets, "results": results, "relative_to": reference}


def _divided(above: Document, below: Document) -> dict[str, float]:
    return {n: v / below[n] for n, v in above.items() if v and below.get(n)}


def check_comparable(baseline: Document, candidate: Document) -> None:
    """Raise `NotComparable`, naming every difference that would explain a difference."""
    differ = []
    for key, where in (("machine", _machine), ("model", _model)):
        if where(baseline) != where(candidate):
            differ.append(f"{key}: {where(baseline)} against {where(candidate)}")
    loads = {r["workload"]["name"]: r["workload"] for r in candidate.get("results") or ()}
    for result in baseline.get("results") or ():
        load = result["workload"]
        other = loads.get(load["name"], load)
        changed = [k for k in _SAME_LOAD if load.get(k) != other.get(k)]
        differ += [f"{load['name']} {k}: {load.get(k)} against {other.get(k)}" for k in changed]
    if differ:
        raise NotComparable(
            "the two were not measured alike: " + "; ".join(dict.fromkeys(differ)),
            "Make the baseline on this machine, with this model and these workloads.",
        )


def _estimates(
    before: Document, after: Document, is_paired: bool
) -> Iterator[tuple[str, Estimate]]:
    for name in GATED:
        lower = metrics.lower_is_better(name)
        old, new = _by_start(before, name), _by_start(after, name)
        if not old or not new:
            continue
        if is_paired:
            shared = sorted(old.keys() & new.keys())
            yield name, paired([old[s] for s in shared], [new[s] for s in shared], lower=lower)
        else:
            yield name, welch(list(old.values()), list(new.values()), lower=lower)


def _by_start(result: Document, name: str) -> dict[int, list[float]]:
    """The metric's values, block by block, for every engine start."""
    values: dict[int, list[float]] = {}
    for block in result.get("blocks") or ():
        value = block["metrics"].get(name)
        if value is not None and value > 0:
            values.setdefault(int(block["start"]), []).append(float(value))
    return values


def _check(workload: str, name: str, estimate: Estimate, p: float | None, allowed: float) -> Check:
    limit = 1 + allowed
    worse, interval = estimate.worse, estimate.ci90
    verdict: Verdict = "undecided"
    if p is not None and p < ALPHA and worse > limit:
        verdict = "regression"
    elif interval is not None and interval[1] <= limit:
        verdict = "pass"
    ratio = worse if metrics.lower_is_better(name) else 1 / worse
    return Check(
        workload=workload,
        metric=name,
        baseline=estimate.baseline,
        candidate=estimate.candidate,
        ratio=ratio,
        worse=worse,
        worse_ci90=interval,
        p=p,
        starts=estimate.starts,
        verdict=verdict,
    )


def _target(document: Document, name: str | None) -> str:
    names = [str(t["name"]) for t in document.get("targets") or ()]
    if not names or (name is not None and name not in names):
        raise NotComparable(
            f"no target '{name}' was measured" if name else "nothing was measured",
            f"There are: {', '.join(names)}." if names else "Make it with `vllama bench --out`.",
        )
    return name or names[0]


def _results(document: Document, target: str) -> dict[str, Document]:
    return {
        str(r["workload"]["name"]): r
        for r in document.get("results") or ()
        if str(r["target"]) == target
    }


def _machine(document: Document) -> str:
    return str((document.get("machine") or {}).get("fingerprint", "unknown"))


def _model(document: Document) -> str:
    """The model's own name: a folder's place does not matter, its last part does."""
    return str(document.get("model") or "unknown").rstrip("/").rpartition("/")[2]
