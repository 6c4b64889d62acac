"""Which profiles a study is good for: `best`, and one for each plain goal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from vllama.bench.measurement import Measurement, Quantiles
from vllama.profile import ENGINE_VERSIONS, Profile, Scalar
from vllama.tuner import accuracy, finals
from vllama.tuner.finals import Block
from vllama.tuner.subject import Subject
from vllama.tuner.trial import Trial, key, same_options
from vllama.tuner.verdict import Verdict, best_trial, judge

GOALS = ("throughput", "latency", "balanced")
# What one measurement of a few seconds must gain before it is believed without finals.
UNPROVEN_MARGIN = 1.05


@dataclass(frozen=True, slots=True)
class Selected:
    """A profile to keep, and the trial that it comes from."""

    profile: Profile
    trial: int | None
    measurements: Mapping[str, Measurement]


def select(
    subject: Subject, trials: Sequence[Trial], blocks: Sequence[Block], verdict: Verdict
) -> dict[str, Selected]:
    """The profiles by name; where nothing is better than the default, it is the default."""
    chosen = {"best": (verdict.options, verdict)}
    for goal in GOALS:
        other = replace(subject, objective=subject.objective.named(goal))
        judged = judge(other, trials, blocks)
        chosen[goal] = (_believed(other, trials, blocks, judged), judged)
    return {
        name: _selected(subject, name, options, judged, trials, blocks)
        for name, (options, judged) in chosen.items()
    }


def _believed(
    subject: Subject, trials: Sequence[Trial], blocks: Sequence[Block], verdict: Verdict
) -> dict[str, Scalar]:
    """The finals are for the objective asked for: another goal's best may not have been there."""
    complete = [t for t in trials if t.complete]
    base = next((t for t in complete if not t.options), None)
    best = best_trial(subject, trials)
    if best is None or base is None:
        return verdict.options
    if subject.objective.ratio(best.measurements, base.measurements) < UNPROVEN_MARGIN:
        return verdict.options if verdict.proven else {}
    # What the search liked best may have been there, and have lost.
    in_finals = any(same_options(best.options, block.options) for block in blocks)
    return verdict.options if verdict.proven and in_finals else dict(best.options)


def _selected(
    subject: Subject,
    name: str,
    options: dict[str, Scalar],
    verdict: Verdict,
    trials: Sequence[Trial],
    blocks: Sequence[Block],
) -> Selected:
    measured = finals.typical(subject, blocks, options)
    proof = "finals" if measured and verdict.proven else "one measurement"
    trial = next((t for t in trials if key(t.options) == key(options) and t.complete), None)
    if not measured and trial is not None:
        measured = dict(trial.measurements)
    provenance: dict[str, Any] = {
        "study": subject.study,
        ENGINE_VERSIONS: subject.default.engine_versions,
        "objective": subject.objective.name if name == "best" else name,
        "limits": [str(limit) for limit in subject.objective.limits],
        "workloads": [w.name for w in subject.workloads],
        "proof": proof,
        "expected": {load: expected(m) for load, m in measured.items()},
        "fallback": _fallback(subject, trials, options),
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if verdict.gain is not None and same_options(options, verdict.shown):
        gain = verdict.gain
        provenance["gain"] = {"metric": gain.metric, "ratio": gain.ratio, "ci95": gain.ci95}
    alike = None if trial is None else accuracy.told(trial.facts, subject.accuracy)
    if alike is not None:
        provenance["accuracy"] = alike
    profile = replace(subject.profile(options, name), provenance=provenance)
    return Selected(profile, None if trial is None else trial.number, measured)


def expected(measured: Measurement) -> dict[str, float | int | None]:
    """The figures that a server can hold its own against."""

    def middle(quantiles: Quantiles | None) -> float | None:
        return None if quantiles is None else quantiles.p50

    return {
        "output_tokens_per_s": measured.output_tokens_per_s,
        "requests_per_s": measured.requests_per_s,
        "ttft_s_p50": middle(measured.ttft_s),
        "tpot_s_p50": middle(measured.tpot_s),
        "peak_memory_bytes": measured.peak_memory_bytes,
    }


def _fallback(
    subject: Subject, trials: Sequence[Trial], options: Mapping[str, Scalar]
) -> list[dict[str, Scalar]]:
    """What to try when this one no longer starts: good ones that need less, the default last."""
    value = subject.objective.value
    good = sorted(
        (t for t in trials if t.complete and t.options and not same_options(t.options, options)),
        key=lambda t: value(t.measurements),
        reverse=True,
    )
    mine = _memory(next((t for t in trials if same_options(t.options, options)), None))
    smaller = [dict(t.options) for t in good if _memory(t) <= mine]
    return [*smaller[:1], {}] if options else []


def _memory(trial: Trial | None) -> float:
    measured = [] if trial is None else trial.measurements.values()
    return max((m.peak_memory_bytes or 0 for m in measured), default=0)
