"""The finals: the best few against the default, interleaved, on fresh starts.

A start, not a block or a request, is what is repeated: blocks on one start do not see how
starts differ (measured elsewhere: 19 % false alarms when they are taken for repeats).
"""

import math
import statistics
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from vllama.bench.compare import Comparison, paired
from vllama.bench.measurement import Measurement
from vllama.bench.rig import Bench, Session
from vllama.errors import EngineFailed
from vllama.profile import Scalar
from vllama.tuner.attempt import bounded, lasting
from vllama.tuner.subject import Subject
from vllama.tuner.trial import key

Options = dict[str, Scalar]
_SEED = 7_000
FAR, CLOSE = 0.1, 0.01
# How far behind the best a finalist may be after one round, and after two, to stay in.
_BEHIND = (FAR, 0.02)
# (rounds, blocks, contenders)
_FRUGAL = [(3, 2, 1), (2, 2, 1)]
_LAVISH = [(6, 2, 4), (5, 2, 4), (5, 2, 3), (3, 2, 4), (3, 2, 3)]
# Who is chosen among several by two rounds was also lucky in them: with so many rounds after
# that, only these count for what is claimed.
CHOSEN_AFTER, TO_CLAIM = 2, 3
# Where starts are cheap, a gain that noise hides is worth as many rounds again. It is looked at
# once more after all of them, not after each: who looks often enough sees a gain in anything.
FURTHER = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """`rounds` fresh starts of everyone, `blocks` of `block_s` seconds per load on each.

    `further` rounds follow where these see a gain but cannot tell it from noise.
    `side_by_side`: all are started before any is measured, and their blocks alternate, so
    that slow drift of the machine meets all alike. Needs the memory for all at once.
    """

    rounds: int
    blocks: int
    block_s: float
    contenders: int
    side_by_side: bool
    further: int = 0


@dataclass(frozen=True, slots=True)
class Block:
    """One measurement in the finals; `failure` in place of `measured` when the engine fell."""

    options: Options
    round: int
    workload: str
    measured: Measurement | None
    start_s: float = 0.0
    command: tuple[str, ...] = ()
    failure: str = ""


def plan(
    start_s: float,
    block_s: float,
    costs_s: Sequence[float],
    left_s: float | None,
    together: int,
) -> Plan | None:
    """The best proof that can be afforded; None when two rounds do not fit in `left_s`.

    `costs_s` is what one block over all loads really took on the default and on each
    contender, best first. Two rounds are for all contenders, for the best in the search is
    often not the best: there, chance chose it. The further rounds are for who is left: three
    where starts are cheap, which four contenders may have then; else there are three in all.
    `together` is how many engines may be up at the same time.
    """
    cheap = start_s <= block_s
    wanted = [(5, 2, 4), (4, 2, 2), (4, 2, 1), *_FRUGAL] if cheap else [(3, 2, 2), *_FRUGAL]
    if left_s is not None:
        wanted = [*_LAVISH, *wanted]
    for rounds, blocks, contenders in [*wanted, (2, 1, 1)]:
        beside = contenders + 1 <= together
        found = Plan(rounds, blocks, block_s, contenders, beside, FURTHER if cheap else 0)
        if left_s is None or cost_s(found, start_s, costs_s) <= left_s:
            return found
    return None


async def run(
    bench: Bench,
    subject: Subject,
    finalists: Sequence[Options],
    plan: Plan,
    left_s: Callable[[], float] = lambda: math.inf,
) -> AsyncIterator[Block]:
    """Measure the default and the finalists; the order turns round with every round.

    After two rounds, no further one is begun that `left_s` would not hold: first all but the
    foremost finalist are left out, then it ends. The further rounds of `plan` are for what
    looks better than the default by more than is equivalent.
    """
    everyone: list[Options] = [{}, *finalists]
    done: list[Block] = []
    side_s = 0.0
    for number in range(plan.rounds + plan.further):
        if number == plan.rounds and not _undecided(subject, done, everyone[1:]):
            return
        before_s = left_s()
        if number >= 2 and side_s * len(everyone) > before_s:
            # What the time does not hold for all it may hold for the foremost.
            everyone = [{}, *_foremost(subject, done, everyone[1:])]
            if side_s * len(everyone) > before_s:
                return
        order = everyone if number % 2 == 0 else everyone[::-1]
        for group in [order] if plan.side_by_side else [[options] for options in order]:
            async for block in _together(bench, subject, group, plan, number):
                done.append(block)
                yield block
        if math.isfinite(before_s):
            side_s = max(side_s, (before_s - left_s()) / len(everyone))
        everyone = [{}, *_still_in(subject, done, everyone[1:], plan)]
        if number < plan.rounds and _settled(subject, done, everyone[1:], plan):
            return


def _still_in(
    subject: Subject, done: Sequence[Block], finalists: Sequence[Options], plan: Plan
) -> list[Options]:
    """Without those that another finalist is far ahead of: they only cost starts.

    After two rounds one alone where enough rounds follow to measure it without its luck: of
    those within 1 % of the best the one that overrides least.
    """
    if len(finalists) < 2:
        return list(finalists)
    means = [_mean(by_round(subject, done, options)) for options in finalists]
    rounds = len({b.round for b in done})
    if rounds == CHOSEN_AFTER and plan.rounds - rounds >= TO_CLAIM:
        means = _standings(subject, done, finalists)
        near = [(len(f), -m, i) for i, (f, m) in enumerate(zip(finalists, means, strict=True))
                if m >= max(means) - CLOSE and math.isfinite(m)]  # fmt: skip
        return [finalists[min(near)[2]]] if near else []
    behind = _BEHIND[min(rounds, 2) - 1]
    return [f for f, mean in zip(finalists, means, strict=True) if mean >= max(means) - behind]


def _foremost(
    subject: Subject, done: Sequence[Block], finalists: Sequence[Options]
) -> list[Options]:
    """The one that stands best so far, if there is any."""
    standings = _standings(subject, done, finalists)
    return [f for f, standing in zip(finalists, standings, strict=True)
            if standing == max(standings)][:1]  # fmt: skip


def _standings(
    subject: Subject, done: Sequence[Block], finalists: Sequence[Options]
) -> list[float]:
    """The mean of each; none where others keep the limits beyond noise and it does not."""
    sure = [surely_holds(subject, done, f) for f in finalists]
    return [
        _mean(by_round(subject, done, f)) if is_sure or not any(sure) else -math.inf
        for f, is_sure in zip(finalists, sure, strict=True)
    ]


def is_claimable(rounds: Iterable[int]) -> bool:
    """Whether enough of these rounds came after the choice among several."""
    return sum(n >= CHOSEN_AFTER for n in rounds) >= TO_CLAIM


def _settled(
    subject: Subject, done: Sequence[Block], finalists: Sequence[Options], plan: Plan
) -> bool:
    """One finalist is left, and its interval lies so far off that no round can turn it.

    Looking early would raise false alarms if it stopped at "just significant": it does not.
    """
    if len(finalists) != 1:
        return False
    compared = _against_default(subject, done, finalists[0])
    chosen = plan.contenders > 1 and plan.rounds - CHOSEN_AFTER >= TO_CLAIM
    if compared is None or (chosen and not is_claimable(by_round(subject, done, finalists[0]))):
        return False
    found = compared.ci95
    return found is not None and (found[0] > math.exp(FAR) or found[1] < 1)


def _undecided(subject: Subject, done: Sequence[Block], finalists: Sequence[Options]) -> bool:
    """None is better than the default beyond noise, and one of them looks better."""
    compared = [_against_default(subject, done, options) for options in finalists]
    every = [(c.ratio, c.ci95) for c in compared if c is not None]
    proven = any(ci95 is not None and ci95[0] > 1 for _, ci95 in every)
    return not proven and any(ratio > 1 + CLOSE for ratio, _ in every)


def _against_default(
    subject: Subject, done: Sequence[Block], options: Options
) -> Comparison | None:
    """As the verdict will see it: in pairs of starts of the same round, without those that
    chose where enough others are left; None where there are fewer than two."""
    default, other = (by_round(subject, done, o) for o in ({}, options))
    both = sorted(default.keys() & other.keys())
    if is_claimable(both):
        both = [n for n in both if n >= CHOSEN_AFTER]
    if len(both) < 2:
        return None
    pairs = [(math.exp(default[n]), math.exp(other[n])) for n in both]
    return paired([d for d, _ in pairs], [o for _, o in pairs], lower_is_better=False)


def _mean(values: Mapping[int, float]) -> float:
    return sum(values.values()) / len(values) if values else -math.inf


async def _together(
    bench: Bench, subject: Subject, sides: Sequence[Options], plan: Plan, number: int
) -> AsyncIterator[Block]:
    """Start these, then let their blocks alternate: A B, B A, ..."""
    async with AsyncExitStack() as stack:
        live: list[tuple[Options, Session]] = []
        for options in sides:
            try:
                session = await stack.enter_async_context(
                    bench.started(subject.profile(options, "final"))
                )
                live.append((options, session))
            except EngineFailed as failed:
                yield Block(options, number, "", None, failure=failed.message)
        for block in range(plan.blocks):
            for options, session in live if block % 2 == 0 else live[::-1]:
                async for result in _block(subject, options, session, plan, number, block):
                    yield result


async def _block(
    subject: Subject, options: Options, session: Session, plan: Plan, number: int, block: int
) -> AsyncIterator[Block]:
    """Every load once. All sides of a round get the same prompts; no two rounds do."""
    for workload in subject.workloads:
        load = lasting(workload, plan.block_s).with_seed(_SEED + 100 * number + block)
        command = tuple(session.endpoint.command)
        try:
            measured = await bounded(session, load)
        except EngineFailed as failed:
            yield Block(options, number, workload.name, None, failure=failed.message)
            return
        start_s = session.start_s if block == 0 else 0.0
        yield Block(options, number, workload.name, measured, start_s, command)


def cost_s(plan: Plan, start_s: float, costs_s: Sequence[float]) -> float:
    """How long the finals should take: two rounds of everyone, the others of the best."""
    sides = [start_s + plan.blocks * cost for cost in costs_s[: plan.contenders + 1]]
    return 2 * sum(sides) + (plan.rounds - 2) * sum(sides[:2])


def by_round(
    subject: Subject, blocks: Sequence[Block], options: Mapping[str, Scalar]
) -> dict[int, float]:
    """The objective's value in each round in which `options` came through whole."""
    found: dict[int, list[float]] = {}
    fallen = set()
    for number, group in _rounds(blocks, options):
        measured = [b for b in group if b.measured is not None]
        if len(measured) < len(group):
            fallen.add(number)
            continue
        for load in subject.workloads:
            values = [
                subject.objective.value({load.name: b.measured})
                for b in measured
                if b.workload == load.name and b.measured is not None
            ]
            if values:
                found.setdefault(number, []).append(sum(values) / len(values))
    whole = len(subject.workloads)
    return {
        n: sum(v) / len(v)
        for n, v in found.items()
        if n not in fallen and len(v) == whole and all(map(math.isfinite, v))
    }


def _rounds(
    blocks: Sequence[Block], options: Mapping[str, Scalar]
) -> Iterator[tuple[int, list[Block]]]:
    mine = [b for b in blocks if key(b.options) == key(options)]
    for number in sorted({b.round for b in mine}):
        yield number, [b for b in mine if b.round == number]


def surely_holds(subject: Subject, blocks: Sequence[Block], options: Mapping[str, Scalar]) -> bool:
    """Whether every limit is kept beyond noise: by its mean and a standard error of it."""
    mine = [b for b in blocks if b.measured is not None and key(b.options) == key(options)]
    for load in subject.workloads:
        seen = [
            subject.objective.broken({load.name: b.measured})
            for b in mine
            if b.workload == load.name and b.measured is not None
        ]
        for limit in subject.objective.limits:
            if _upper([each[limit.name] for each in seen]) > 0:
                return False
    return bool(mine)


def _upper(values: Sequence[float]) -> float:
    if len(values) < 2:
        return max(values, default=math.inf)
    return statistics.mean(values) + statistics.stdev(values) / math.sqrt(len(values))


def typical(
    subject: Subject, blocks: Sequence[Block], options: Mapping[str, Scalar]
) -> dict[str, Measurement]:
    """For each load the block in the middle: a measurement that happened, not a mixture."""
    found = {}
    for load in subject.workloads:
        mine = [
            b.measured
            for b in blocks
            if b.measured and b.workload == load.name and key(b.options) == key(options)
        ]
        ranked = sorted(mine, key=lambda m: subject.objective.value({load.name: m}))
        if ranked:
            found[load.name] = ranked[(len(ranked) - 1) // 2]
    return found
