"""The JSON document of a tune: what `vllama tune --json` prints and a report reads."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vllama.bench.measurement import Measurement
from vllama.machine import Machine
from vllama.profile import Scalar
from vllama.tuner import accuracy, drift, finals, related
from vllama.tuner.ablation import Ablated
from vllama.tuner.costs import Cost, configurations_per_hour
from vllama.tuner.finals import Block
from vllama.tuner.selection import Selected
from vllama.tuner.subject import Subject
from vllama.tuner.trial import Trial, in_words, same_options
from vllama.tuner.verdict import Verdict

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that a tune came to."""

    subject: Subject
    machine: Machine
    trials: Sequence[Trial]
    blocks: Sequence[Block]
    verdict: Verdict
    selected: Mapping[str, Selected]
    saved: Mapping[str, Path]
    stopped: str
    seconds: float
    command: str = ""
    costs: Sequence[Cost] = ()
    ablated: Sequence[Ablated] = ()

    @property
    def drift(self) -> str:
        """What the controls showed of the machine, in words; empty when it was steady."""
        return drift.of(self.trials, self.subject.objective).words


def of(outcome: Outcome) -> dict[str, Any]:
    """The document."""
    subject, verdict = outcome.subject, outcome.verdict
    default = subject.default
    gain = verdict.gain
    return {
        "format": FORMAT,
        "model": default.model,
        "machine": machine(outcome.machine),
        "engine": {"name": default.engine, "version": default.engine_version},
        "shape": related.about(subject),
        "study": subject.study,
        "command": outcome.command,
        "objective": subject.objective.name,
        "limits": [str(limit) for limit in subject.objective.limits],
        "workloads": [asdict(w) for w in subject.workloads],
        "trials": [_trial(subject, t) for t in outcome.trials],
        "baseline": _side(outcome, {}),
        "best": _best(outcome),
        "gain": None if gain is None else asdict(gain),
        "verdict": verdict.reason,
        "stopped": outcome.stopped,
        "drift": outcome.drift or None,
        "ablation": [{**asdict(a), "verdict": a.verdict} for a in outcome.ablated],
        "profiles": {name: str(path) for name, path in outcome.saved.items()},
        "profile_trials": {
            n: s.trial for n, s in outcome.selected.items() if s.trial is not None
        },
        "finals": [_block(b) for b in outcome.blocks],
        "cost": _cost(outcome),
        "ruled_out": [asdict(r) for r in subject.space.ruled_out] + _refused(outcome.trials),
    }  # fmt: skip


def machine(here: Machine) -> dict[str, Any]:
    """A machine for people: what it has, and the fingerprint it is known by."""
    cpu = {**asdict(here.cpu), "features": sorted(here.cpu.features)}
    return {"fingerprint": here.fingerprint, **asdict(here), "cpu": cpu}


def measurement(measured: Measurement) -> dict[str, Any]:
    """As `vllama bench --json` writes it."""
    return asdict(measured)


def _trial(subject: Subject, trial: Trial) -> dict[str, Any]:
    measured = {name: measurement(m) for name, m in trial.measurements.items()}
    failure = trial.failure
    return {
        "number": trial.number,
        "options": dict(trial.options),
        "state": trial.state,
        "origin": trial.origin,
        "measurements": measured or None,
        "value": _value(subject, trial.measurements),
        "failure": None if failure is None else asdict(failure),
        "seconds": trial.seconds,
        "start_s": trial.start_s,
        "effective": dict(trial.effective),
        "accuracy": accuracy.told(trial.facts, subject.accuracy),
    }


def _refused(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """What the engine itself ruled out before any start, in its words."""
    return [
        {"option": in_words(t.options), "reason": t.failure.message}
        for t in trials
        if t.refused and t.failure
    ]


def _value(subject: Subject, measured: Mapping[str, Measurement]) -> float | None:
    """In the unit of the objective's metric: a geometric mean over the loads."""
    return math.exp(subject.objective.value(measured)) if measured else None


def _best(outcome: Outcome) -> dict[str, Any] | None:
    """The closest contender; where the default is kept, the gain beside it says so."""
    side = _side(outcome, outcome.verdict.shown)
    return None if side is None else {"profile": "best", **side}


def _side(outcome: Outcome, options: Mapping[str, Scalar]) -> dict[str, Any] | None:
    tried = [t for t in outcome.trials if same_options(t.options, options) and t.measurements]
    measured = finals.typical(outcome.subject, outcome.blocks, options)
    if not measured and not tried:
        return None
    command = next((t.command for t in tried), ())
    shown = measured or tried[0].measurements
    return {
        "options": dict(options),
        "command": list(command),
        "measurements": {name: measurement(m) for name, m in shown.items()},
    }


def _block(block: Block) -> dict[str, Any]:
    return {
        "options": dict(block.options),
        "round": block.round,
        "workload": block.workload,
        "measurement": None if block.measured is None else measurement(block.measured),
        "failure": block.failure or None,
    }


def _cost(outcome: Outcome) -> dict[str, Any]:
    starts = {(b.round, str(sorted(b.options.items()))) for b in outcome.blocks}
    searched = sum(t.seconds for t in outcome.trials)
    return {
        "trials": len(outcome.trials),
        "engine_starts": sum(t.has_own_start for t in outcome.trials) + len(starts),
        "rungs": [asdict(cost) for cost in outcome.costs],
        "configurations_per_hour": configurations_per_hour(outcome.trials),
        "seconds": outcome.seconds,
        "search_s": searched,
        "start_s": sum(t.start_s for t in outcome.trials),
    }


def plan(subject: Subject, here: Machine) -> dict[str, Any]:
    """What a dry run knows: the space and the first launch; nothing was started."""
    default = subject.default
    return {
        "format": FORMAT,
        "dry_run": True,
        "model": default.model,
        "machine": machine(here),
        "engine": {"name": default.engine, "version": default.engine_version},
        "study": subject.study,
        "default": dict(default.options),
        "knobs": [asdict(knob) for knob in subject.space.knobs],
        "combinations": subject.space.size,
        "seeds": [dict(s) for s in subject.space.seeds],
        "ruled_out": [asdict(r) for r in subject.space.ruled_out],
    }
