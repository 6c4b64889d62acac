"""Who goes to the finals: those of whom one should turn out to be the best that may be used."""

from collections.abc import Sequence

import numpy as np

from vllama.profile import Scalar
from vllama.tuner import drift, smoothing
from vllama.tuner.gaussian import Array
from vllama.tuner.smoothing import Smooth
from vllama.tuner.subject import Subject
from vllama.tuner.trial import Trial, key

# Worlds that are drawn to see who is worth a place, the same each time.
_DRAWS, _SEED = 512, 1


def ranked(subject: Subject, trials: Sequence[Trial]) -> list[Trial]:
    """The complete trials that are not the default, best first, each configuration once.

    As they would have been on a machine that did not drift.
    """
    shift = drift.of(trials, subject.objective)
    best = sorted(
        (t for t in trials if t.complete and t.options),
        key=lambda t: subject.objective.value(t.measurements) - shift.at(t.number),
        reverse=True,
    )
    return list(_once(best).values())


def choose(subject: Subject, trials: Sequence[Trial], count: int) -> list[dict[str, Scalar]]:
    """At most so many, the most promising first.

    The best by one measurement was also lucky in it, and where limits bind, the best are those
    whose measurements flattered them. So worlds are drawn from what all trials tell together
    of values and limits; each place goes to the one that adds most, over them all, to the best
    that keeps its limits.
    """
    likely = {s.trial.number: s for s in smoothing.of(subject, trials) if s.trial.options}
    by_mean = sorted(likely.values(), key=lambda s: -s.mean)
    open_ = [likely[t.number] for t in _once([s.trial for s in by_mean]).values()]
    if not any(s.trial.complete for s in open_):
        return []
    worth = _drawn(open_)
    best = np.zeros(_DRAWS)
    chosen: list[int] = []
    while len(chosen) < min(count, len(open_)):
        gains = np.maximum(worth, best[:, None]).mean(axis=0)
        gains[chosen] = -1.0
        chosen.append(int(np.argmax(gains)))
        best = np.maximum(best, worth[:, chosen[-1]])
    return [dict(open_[i].trial.options) for i in chosen]


def _drawn(likely: Sequence[Smooth]) -> Array:
    """Worlds by configurations: what each is worth in each, nothing where it breaks a limit."""
    random = np.random.default_rng(_SEED)
    mean, sd, kept = (np.array([getattr(s, n) for s in likely]) for n in ("mean", "sd", "kept"))
    size = (_DRAWS, len(likely))
    values = np.exp(mean - mean.max() + sd * random.normal(size=size))
    worth: Array = values * (random.random(size) < kept)
    return worth


def _once(trials: Sequence[Trial]) -> dict[str, Trial]:
    first: dict[str, Trial] = {}
    for trial in trials:
        first.setdefault(key(trial.options), trial)
    return first
