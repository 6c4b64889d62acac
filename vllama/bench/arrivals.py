"""When requests arrive in an open loop: drawn before the run, the same for the same seed."""

import functools
import json
import random
from collections.abc import Callable, Iterator
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Any, Literal, TypeAlias

from vllama.errors import UsageError

Process: TypeAlias = Literal["constant", "poisson", "gamma", "bursts"]

# A burst comes at this many times the mean rate and fills this share of the time.
_BURST_RATE = 4.0
_BURST_SHARE = 0.2
_BURST_CYCLE_S = 5.0
_TIMES = ("at_s", "timestamp", "time", "arrived_at")


def draw(
    process: Process, rate_per_s: float, duration_s: float, *, cv: float = 1.0, seed: int = 0
) -> list[float]:
    """Seconds from the start at which requests are due, `rate_per_s` of them in the mean.

    `cv` is the coefficient of variation of the gaps of `gamma`: below 1 more even than
    Poisson's, above 1 more clustered. `bursts` is Poisson at four times the rate for a fifth
    of the time, and evenly thinner between.
    """
    rng = random.Random(f"{seed}/{process}")
    if process == "bursts":
        return list(_bursts(rng, rate_per_s, duration_s))
    gaps: dict[str, Callable[[], float]] = {
        "constant": lambda: 1 / rate_per_s,
        "poisson": lambda: rng.expovariate(rate_per_s),
        "gamma": lambda: rng.gammavariate(1 / cv**2, cv**2 / rate_per_s),
    }
    due = accumulate(iter(gaps[process], None))
    return list(takewhile(lambda t: t < duration_s, due))


def _bursts(rng: random.Random, rate_per_s: float, duration_s: float) -> Iterator[float]:
    """Poisson at the highest rate, thinned to the rate of the moment."""
    highest = rate_per_s * _BURST_RATE
    quiet = rate_per_s * (1 - _BURST_RATE * _BURST_SHARE) / (1 - _BURST_SHARE)
    now = rng.expovariate(highest)
    while now < duration_s:
        bursting = now % _BURST_CYCLE_S < _BURST_SHARE * _BURST_CYCLE_S
        if rng.random() < (1.0 if bursting else quiet / highest):
            yield now
        now += rng.expovariate(highest)


def ramp(
    rates: tuple[float, float], warm_s: float, window_s: float, *, seed: int = 0
) -> list[float]:
    """Poisson arrivals whose rate goes evenly from the first of `rates` to the second.

    It does so over the window; before it is the first, and after it, for as long again, the
    second: as many as a load needs to stay whole.
    """
    rng = random.Random(f"{seed}/ramp")
    highest = max(rates)
    found, now = [], rng.expovariate(highest)
    while now < warm_s + 2 * window_s:
        share = min(max((now - warm_s) / window_s, 0.0), 1.0)
        if rng.random() < (rates[0] + share * (rates[1] - rates[0])) / highest:
            found.append(now)
        now += rng.expovariate(highest)
    return found


def traced(path: Path, rate_per_s: float, whole_s: float) -> list[float]:
    """The arrivals of a file, stretched to a mean of `rate_per_s`, and again from the start."""
    times, span_s = trace(path)
    stretch = len(times) / span_s / rate_per_s
    rounds = range(1 + int(whole_s / (span_s * stretch)))
    every = ((turn * span_s + at) * stretch for turn in rounds for at in times)
    return list(takewhile(lambda t: t < whole_s, every))


@functools.lru_cache(maxsize=8)
def trace(path: Path) -> tuple[tuple[float, ...], float]:
    """The times of a file from its first on, and its span: with a mean gap after the last.

    A line is a number of seconds, alone or before a comma, or a JSON object with one.

    Raises:
        UsageError: no such file, or a line without a time; says which.
    """
    times = []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip() and not (number == 1 and line.strip()[0].isalpha()):
                times.append(_time(line.strip(), f"{path}, line {number}"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no file of arrivals: {error}") from error
    times.sort()
    if len(times) < 2 or times[0] == times[-1]:
        raise UsageError(f"{path} holds no two times of arrival that differ")
    last = times[-1] - times[0]
    return tuple(t - times[0] for t in times), last + last / (len(times) - 1)


def _time(line: str, where: str) -> float:
    try:
        if line.startswith("{"):
            entry: dict[str, Any] = json.loads(line)
            return float(next(entry[key] for key in _TIMES if key in entry))
        return float(line.split(",")[0])
    except (ValueError, TypeError, StopIteration) as error:
        raise UsageError(
            f"{where}: no time of arrival",
            f"A line is seconds, alone or before a comma, or JSON with one of: {_TIMES}.",
        ) from error
