"""Duel: the winners of several engines' studies in turns, so that the engine is tuned too.

Whole starts are repeated and alternate, as in the finals; prompts are the same text for all,
for their tokenizers may differ. An engine is only passed over for another that is surely
better: where the interval holds 1, the one that the machine and the format speak for is kept.
"""

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from vllama.bench.compare import Comparison, paired
from vllama.bench.contest import Block, Contest, Target
from vllama.bench.measurement import summarize
from vllama.errors import EngineFailed
from vllama.tuner.attempt import lasting
from vllama.tuner.subject import Subject

STARTS = 3
_BLOCKS = 2


@dataclass(frozen=True, slots=True)
class Side:
    """The profile that won the study of an engine, and what that was about."""

    target: Target
    subject: Subject

    @property
    def name(self) -> str:
        """The engine's."""
        return self.target.name


@dataclass(frozen=True, slots=True)
class Judged:
    """`winner` is an engine's name; `against` compares each other one with the first."""

    winner: str
    against: Mapping[str, Comparison]
    reason: str


async def fight(
    sides: Sequence[Side], block_s: float, starts: int = STARTS
) -> AsyncIterator[Block]:
    """Measure all of them in turns, a start of one after a start of the other.

    Raises:
        EngineFailed: one of them, which had won its study, fell.
    """
    contest = Contest(
        targets=[side.target for side in sides],
        workloads=[lasting(w, block_s) for w in sides[0].subject.workloads],
        blocks=_BLOCKS,
        starts=starts,
        together=False,
    )
    async for block in contest.run():
        yield block


def judge(sides: Sequence[Side], blocks: Sequence[Block]) -> Judged:
    """Who is better; `sides` in the order in which they are to be preferred."""
    first, *others = sides
    mine = _by_start(first, blocks)
    against = {}
    for other in others:
        theirs = _by_start(other, blocks)
        both = sorted(mine.keys() & theirs.keys())
        if not both:
            raise EngineFailed(f"{first.name} and {other.name} were not measured side by side")
        against[other.name] = paired(
            [mine[n] for n in both], [theirs[n] for n in both], lower_is_better=False
        )
    faster = {n: c.ratio for n, c in against.items() if c.verdict == "faster"}
    if faster:
        winner = max(faster, key=lambda n: faster[n])
        return Judged(winner, against, f"{winner} beat {first.name} in turns on fresh starts")
    why = f"no other engine is surely better than {first.name}, the usual one here"
    return Judged(first.name, against, why)


def _by_start(side: Side, blocks: Sequence[Block]) -> dict[int, float]:
    """What the objective says of each start, as a positive number: more is better."""
    found: dict[int, list[float]] = {}
    for block in blocks:
        if block.target == side.name:
            measured = {block.workload.name: summarize(block.run)}
            found.setdefault(block.start, []).append(side.subject.objective.value(measured))
    return {n: math.exp(math.fsum(v) / len(v)) for n, v in found.items()}
