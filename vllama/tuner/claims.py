"""Claims: a profile must not lose on any workload that it is for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from vllama.bench.compare import paired
from vllama.bench.measurement import Measurement
from vllama.profile import Scalar
from vllama.tuner import finals
from vllama.tuner.finals import Block
from vllama.tuner.subject import Subject

# Below these ratios to the default it has lost: proven in finals, or as one trial shows it.
LOST, SEEMS_LOST = 0.99, 0.97

Measured = Mapping[str, Measurement]


def seem_lost(subject: Subject, measured: Measured, default: Measured | None) -> list[str]:
    """The workloads on which one measurement is behind the default's by more than it errs."""
    if default is None or len(subject.workloads) < 2:
        return []
    value = subject.objective.value
    return [
        name
        for name in measured.keys() & default.keys()
        if value({name: measured[name]}) - value({name: default[name]}) < math.log(SEEMS_LOST)
    ]


def lost(subject: Subject, blocks: Sequence[Block], options: Mapping[str, Scalar]) -> list[str]:
    """The workloads on which the finals show it behind the default, beyond noise."""
    if len(subject.workloads) < 2:
        return []
    return [w.name for w in subject.workloads if _is_behind(subject, blocks, options, w.name)]


def _is_behind(
    subject: Subject, blocks: Sequence[Block], options: Mapping[str, Scalar], load: str
) -> bool:
    alone = replace(subject, workloads=tuple(w for w in subject.workloads if w.name == load))
    mine = [b for b in blocks if b.workload == load]
    default, other = (finals.by_round(alone, mine, o) for o in ({}, options))
    both = sorted(default.keys() & other.keys())
    if len(both) < 2:
        return False
    pairs = [math.exp(default[n]) for n in both], [math.exp(other[n]) for n in both]
    found = paired(*pairs, lower_is_better=False)
    return found.ratio < LOST and found.ci95 is not None and found.ci95[1] < 1
