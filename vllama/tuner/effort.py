"""Effort: how long to measure, so that a budget is kept and starts do not eat all of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from vllama.bench.workload import Workload
from vllama.machine import Machine
from vllama.tuner.attempt import Rung

SEARCH_SHARE = 0.5
# Warming up, the first rung, and the last requests' way home.
BESIDES = 1.8
_LONGEST_S = 60.0


@dataclass(frozen=True, slots=True)
class Effort:
    """The rungs of a trial, and the length of a block in the finals."""

    rungs: tuple[Rung, ...]
    block_s: float


def of(
    engine: str, machine: Machine, loads: Sequence[Workload], trials: int, budget_s: float | None
) -> Effort:
    """Short where starts are cheap; longer where the budget has room for it.

    A start of a few tenths of a second asks for short blocks and many starts; one of a
    minute for as much measuring as it has cost. A load that says how long it lasts is taken
    at its word.
    """
    asked = [load.duration_s for load in loads if load.duration_s]
    if asked:
        return Effort(_rungs(max(asked)), max(asked))
    base_s = 4.0 if engine == "llamacpp" else 20.0 if machine.gpus else 8.0
    if budget_s is not None:
        start_s = 1.0 if engine == "llamacpp" else 60.0
        affordable = (SEARCH_SHARE * budget_s / max(trials, 1) - start_s) / max(len(loads), 1)
        base_s = min(_LONGEST_S, max(base_s / 2, min(affordable / BESIDES, 3 * base_s)))
    return Effort(_rungs(base_s), base_s)


def _rungs(whole_s: float) -> tuple[Rung, ...]:
    """A third first; who is far behind then is not measured for the rest."""
    return (Rung(whole_s / 3), Rung(whole_s)) if whole_s >= 9 else (Rung(whole_s),)
