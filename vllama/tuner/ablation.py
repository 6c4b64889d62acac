"""Ablation: the winner with one setting at a time put back, which tells what mattered."""

import math
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from vllama.bench.measurement import Measurement
from vllama.bench.rig import Bench
from vllama.errors import EngineFailed
from vllama.profile import Scalar
from vllama.tuner.attempt import bounded, lasting
from vllama.tuner.subject import Subject
from vllama.tuner.trial import key

# Two measurements of one start each agree within this; nothing smaller is called a difference.
NOISE = 0.03
_SEED = 9_000


@dataclass(frozen=True, slots=True)
class Ablated:
    """What is left of the winner when `option` is put back from `value` to `default`.

    `ratio` is to the winner measured the same way: 0.8 says that the setting brings a
    quarter. None where it did not start (`failure`) or breaks a limit.
    """

    option: str
    value: Scalar
    default: Scalar
    ratio: float | None
    failure: str = ""

    @property
    def verdict(self) -> str:
        """`matters`, `no difference` within noise, `hurts`, or `needed` to run at all."""
        if self.ratio is None:
            return "needed"
        if abs(math.log(self.ratio)) < NOISE:
            return "no difference"
        return "matters" if self.ratio < 1 else "hurts"


async def run(
    bench: Bench,
    subject: Subject,
    winner: Mapping[str, Scalar],
    block_s: float,
    has_time: Callable[[], bool],
) -> AsyncIterator[Ablated]:
    """One start for each setting of `winner`, after one of the winner itself.

    Put back is a knob; what follows from it (a context that grows with the slots) goes along.
    """
    choice = subject.space.choice(winner)
    changed = [k for k in subject.space.knobs if choice[k.name] != _default(subject, k.name)]
    if not changed or not has_time():
        return
    try:
        whole = await _measured(bench, subject, dict(winner), block_s)
    except EngineFailed:
        return
    for knob in changed:
        if not has_time():
            return
        default = _default(subject, knob.name)
        options = subject.space.launch({**choice, knob.name: default})
        if key(options) == key(winner):
            continue
        ratio, failure = None, ""
        try:
            measured = await _measured(bench, subject, options, block_s)
            if subject.objective.holds(measured):
                ratio = subject.objective.ratio(measured, whole)
            else:
                failure = "it breaks a limit"
        except EngineFailed as failed:
            failure = failed.message
        yield Ablated(knob.name, choice[knob.name], default, ratio, failure)


def _default(subject: Subject, name: str) -> Scalar:
    return subject.space.choice({})[name]


async def _measured(
    bench: Bench, subject: Subject, options: dict[str, Scalar], block_s: float
) -> dict[str, Measurement]:
    async with bench.started(subject.profile(options, "ablation")) as session:
        return {
            load.name: await bounded(session, lasting(load, block_s).with_seed(_SEED))
            for load in subject.workloads
        }
