"""What each rung of the ladder cost, and what it gave."""

from collections.abc import Sequence
from dataclasses import dataclass

from vllama.tuner.finals import Block
from vllama.tuner.ladder import Aids
from vllama.tuner.model_sampler import MOST
from vllama.tuner.space import Space
from vllama.tuner.trial import LIVE, Trial, key


@dataclass(frozen=True, slots=True)
class Cost:
    """One rung: configurations it looked at, those it refused, its starts and seconds."""

    rung: str
    configurations: int
    refused: int
    starts: int
    seconds: float


def by_rung(
    space: Space, trials: Sequence[Trial], blocks: Sequence[Block], aids: Aids
) -> list[Cost]:
    """From the cheapest to the dearest. The dry run's are those of this call."""
    live = [t for t in trials if LIVE in t.facts]
    full = [t for t in trials if LIVE not in t.facts and not t.refused]
    costs = [Cost("dry run", aids.checked, aids.refused, 0, aids.check_s)]
    if space.size <= MOST:
        fitting = sum(1 for _ in space.combinations())
        costs.append(Cost("fit", space.size, space.size - fitting, 0, 0.0))
    if live:
        costs.append(_of_trials("live server", live))
    return [*costs, _of_trials("start of its own", full), _of_finals(blocks)]


def configurations_per_hour(trials: Sequence[Trial]) -> float:
    """How many the search measured in an hour of its time."""
    measured = len({key(t.options) for t in trials if t.measurements})
    seconds = sum(t.seconds for t in trials)
    return 3600 * measured / seconds if seconds else 0.0


def _of_trials(rung: str, trials: Sequence[Trial]) -> Cost:
    fell = sum(t.state == "failed" for t in trials)
    starts = sum(t.has_own_start for t in trials)
    return Cost(rung, len(trials), fell, starts, sum(t.seconds for t in trials))


def _of_finals(blocks: Sequence[Block]) -> Cost:
    sides = {key(b.options) for b in blocks}
    starts = {(b.round, key(b.options)) for b in blocks}
    seconds = sum(b.start_s + (b.measured.duration_s if b.measured else 0.0) for b in blocks)
    return Cost("finals", len(sides), 0, len(starts), seconds)
