"""The verdict: what the finals allow to be said. Pure arithmetic over their blocks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vllama.bench.compare import paired
from vllama.profile import Scalar
from vllama.tuner import claims, finals
from vllama.tuner.finals import Block, surely_holds
from vllama.tuner.subject import Subject
from vllama.tuner.trial import Trial, in_words, key, same_options

EQUIVALENT = 0.01


@dataclass(frozen=True, slots=True)
class Gain:
    """How many times better than the default; above 1 is better, whatever the metric."""

    metric: str
    ratio: float
    ci95: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`options` are the ones to use, `{}` for the engine's default; `reason` says why.

    `shown` is the closest contender, whose `gain` is reported even where the default is kept.
    """

    options: dict[str, Scalar]
    shown: dict[str, Scalar]
    gain: Gain | None
    proven: bool
    reason: str


def judge(subject: Subject, trials: Sequence[Trial], blocks: Sequence[Block]) -> Verdict:
    """Who won: proven by the finals where there were any, else the best trial, unproven."""
    values = {
        key(b.options): finals.by_round(subject, blocks, b.options) for b in blocks
    }  # fmt: skip
    options = {key(b.options): dict(b.options) for b in blocks}
    default = values.pop(key({}), {})
    kept = {k: v for k, v in values.items() if v and _holds(subject, blocks, options[k])}
    if not kept:
        return _unproven(subject, trials, bool(values))
    # Where some keep the limits beyond noise, one that may have kept them by chance is no winner.
    kept = {k: v for k, v in kept.items() if surely_holds(subject, blocks, options[k])} or kept
    kept = {k: v for k, v in kept.items() if finals.is_claimable(v)} or kept
    if not default or not _holds(subject, blocks, {}):
        return _without_default(subject, trials, default, kept, options)
    gains = {k: _gain(subject, default, v) for k, v in kept.items()}
    better = {k for k, g in gains.items() if g.ci95 is not None and g.ci95[0] > 1 and g.ratio > 1}
    closest = max(gains, key=lambda k: gains[k].ratio)
    if not better:
        reason = "nothing beat the engine's default beyond noise, so it is kept"
        return Verdict({}, options[closest], gains[closest], True, reason)
    losers = {k: claims.lost(subject, blocks, options[k]) for k in better}
    better = {k for k in better if not losers[k]}
    if not better:
        loads = ", ".join(next(iter(losers.values())))
        what = in_words(options[closest])
        reason = f"{what} is better on the whole but loses on {loads}, so the default is kept"
        return Verdict({}, options[closest], gains[closest], True, reason)
    winner = _simplest({k: gains[k].ratio for k in better}, options, subject, blocks)
    reason = f"{in_words(options[winner])} beat the default in interleaved finals on fresh starts"
    return Verdict(options[winner], options[winner], gains[winner], True, reason)


def _holds(subject: Subject, blocks: Sequence[Block], options: Mapping[str, Scalar]) -> bool:
    return subject.objective.holds(finals.typical(subject, blocks, options))


def _gain(subject: Subject, default: Mapping[int, float], other: Mapping[int, float]) -> Gain:
    """Over the rounds in which both came through; pairs are starts of the same round.

    Without the rounds that chose it, where enough others are left.
    """
    both = sorted(default.keys() & other.keys())
    if finals.is_claimable(both):
        both = [n for n in both if n >= finals.CHOSEN_AFTER]
    pairs = [(math.exp(default[n]), math.exp(other[n])) for n in both]
    if not pairs:
        return Gain(subject.objective.metric, 0.0, None)
    found = paired([d for d, _ in pairs], [o for _, o in pairs], lower_is_better=False)
    return Gain(subject.objective.metric, found.ratio, found.ci95)


def _simplest(
    ratios: Mapping[str, float],
    options: Mapping[str, Mapping[str, Scalar]],
    subject: Subject,
    blocks: Sequence[Block],
) -> str:
    """Of those within 1 % of the best, the one that overrides least, then needs least memory."""
    top = max(ratios.values())
    close = [k for k, ratio in ratios.items() if ratio >= top * (1 - EQUIVALENT)]

    def cost(k: str) -> tuple[int, int, float]:
        measured = finals.typical(subject, blocks, options[k]).values()
        memory = max((m.peak_memory_bytes or 0 for m in measured), default=0)
        return len(options[k]), memory, -ratios[k]

    return min(close, key=cost)


def _without_default(
    subject: Subject,
    trials: Sequence[Trial],
    default: Mapping[int, float],
    kept: Mapping[str, Mapping[int, float]],
    options: Mapping[str, dict[str, Scalar]],
) -> Verdict:
    """The default fell or breaks a limit: whoever keeps them all is better."""
    winner = max(kept, key=lambda k: sum(kept[k].values()) / len(kept[k]))
    found = _gain(subject, default, kept[winner]) if default else None
    tried = next((t for t in trials if same_options(t.options, {})), None)
    why = tried.failure.message if tried and tried.failure else "it did not come through the finals"
    reason = f"the default cannot be used here ({why})"
    return Verdict(options[winner], options[winner], found, True, reason)


def _unproven(subject: Subject, trials: Sequence[Trial], fell: bool) -> Verdict:
    best = best_trial(subject, trials)
    if best is None:
        return Verdict({}, {}, None, False, "no trial was complete, so the default is kept")
    if not best.options:
        return Verdict({}, {}, None, False, "the default was best of all that was tried")
    default = next((t for t in trials if not t.options and t.measurements), None)
    gain = None
    if default is not None:
        ratio = subject.objective.ratio(best.measurements, default.measurements)
        gain = Gain(subject.objective.metric, ratio, None)
    why = "the finalists fell in the finals" if fell else "there were no finals"
    if fell:
        return Verdict({}, dict(best.options), gain, False, f"{why}, so the default is kept")
    reason = f"best of the trials; the gain is not proven ({why})"
    return Verdict(dict(best.options), dict(best.options), gain, False, reason)


def best_trial(subject: Subject, trials: Sequence[Trial]) -> Trial | None:
    """The complete trial with the best value."""
    default = next((t.measurements for t in trials if t.complete and not t.options), None)
    complete = [
        t for t in trials if t.complete and not claims.seem_lost(subject, t.measurements, default)
    ]
    return max(complete, key=lambda t: subject.objective.value(t.measurements), default=None)
