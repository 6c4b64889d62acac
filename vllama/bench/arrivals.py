"""When requests arrive in an open loop: drawn before the run, the same for the same seed."""

import random
from collections.abc import Callable, Iterator
from itertools import accumulate, takewhile
from typing import Literal, TypeAlias

Process: TypeAlias = Literal["constant", "poisson", "gamma", "bursts"]

# A burst comes at this many times the mean rate and fills this share of the time.
_BURST_RATE = 4.0
_BURST_SHARE = 0.2
_BURST_CYCLE_S = 5.0


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
