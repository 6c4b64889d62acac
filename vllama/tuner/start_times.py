"""How long a trial should take: less where the engine has compiled the same code before."""

from collections.abc import Mapping, Sequence
from statistics import fmean, median

import numpy as np

from vllama.profile import Scalar
from vllama.tuner.gaussian import Array
from vllama.tuner.space import Space
from vllama.tuner.trial import Trial, key


def expected(
    space: Space, candidates: Sequence[Mapping[str, Scalar]], trials: Sequence[Trial]
) -> Array:
    """Seconds of a trial of each candidate, from the trials that are most like it.

    Alike is what shares most of the values under which compiled code is kept. A candidate
    that shares them all takes as long as the repeats did; where there were none yet, as the
    first one times what a repeat has taken of a first start elsewhere. All ones before
    anything was measured.
    """
    done = [t for t in trials if t.complete and t.has_own_start and t.seconds > 0]
    if not done:
        return np.ones(len(candidates))
    names = [k.name for k in space.knobs if k.name in space.compiled]
    groups = _by_code(space, names, done)
    again = _repeat_share(list(groups.values()))
    seconds = {code: _next(times, again) for code, times in groups.items()}
    codes = [_code(space, names, c) for c in candidates]
    each = {code: _nearest(code, seconds, groups) for code in set(codes)}
    return np.array([each[code] for code in codes])


def _code(space: Space, names: Sequence[str], options: Mapping[str, Scalar]) -> tuple[str, ...]:
    choice = space.choice(options)
    return tuple(key({name: choice[name]}) for name in names)


def _by_code(
    space: Space, names: Sequence[str], done: Sequence[Trial]
) -> dict[tuple[str, ...], list[float]]:
    found: dict[tuple[str, ...], list[float]] = {}
    for trial in sorted(done, key=lambda t: t.number):
        found.setdefault(_code(space, names, trial.options), []).append(trial.seconds)
    return found


def _repeat_share(groups: Sequence[Sequence[float]]) -> float:
    """What a repeat takes of the first start of its kind; never more than all of it."""
    shares = [fmean(times[1:]) / times[0] for times in groups if len(times) > 1]
    return min(1.0, median(shares)) if shares else 1.0


def _next(times: Sequence[float], again: float) -> float:
    return fmean(times[1:]) if len(times) > 1 else times[0] * again


def _nearest(
    code: tuple[str, ...],
    seconds: Mapping[tuple[str, ...], float],
    groups: Mapping[tuple[str, ...], Sequence[float]],
) -> float:
    if code in seconds:
        return seconds[code]
    apart = {other: sum(a != b for a, b in zip(code, other, strict=True)) for other in groups}
    least = min(apart.values())
    # It will be the first of its kind.
    return fmean(groups[other][0] for other, far in apart.items() if far == least)
