"""What the benchmark on real engines says of a race between configurations."""

import math
import random
import statistics

from benchmarks.tuner.real_file import Line
from benchmarks.tuner.real_shown import Race
from vllama.tuner.trial import key

SIDES, ROUNDS = 4, 10


def raced(seed: int, *rates: float) -> Race:
    """Ten rounds with 10 % of noise from start to start."""
    chance = random.Random(seed)
    lines = [
        Line("race", {"n_parallel": side}, rate * math.exp(chance.gauss(0, 0.1)), round=number)
        for number in range(ROUNDS)
        for side, rate in enumerate(rates)
    ]
    race = Race.of(lines)
    assert race is not None
    return race


def test_among_equals_nobody_is_said_to_be_worse_than_the_one_who_was_lucky() -> None:
    mine, by_luck, by_the_other_half = key({"n_parallel": 0}), [], []
    for seed in range(300):
        race = raced(seed, *[100.0] * SIDES)
        lucky, fair = race.ratio(race.best, mine), race.share_of_best(mine)
        assert lucky
        assert fair
        by_luck.append(math.log(lucky.ratio))
        by_the_other_half.append(math.log(fair.ratio))
    assert statistics.mean(by_luck) < -0.02
    assert abs(statistics.mean(by_the_other_half)) < 0.01


def test_who_is_worse_is_said_to_be_so() -> None:
    found = [
        share.ratio
        for seed in range(100)
        if (share := raced(seed, 90.0, 100.0, 80.0).share_of_best(key({"n_parallel": 0})))
    ]
    assert 0.88 < statistics.mean(found) < 0.92


def test_what_was_not_raced_and_a_race_of_one_round_are_no_error() -> None:
    lines = [Line("race", {"n_parallel": side}, 100.0 + side) for side in range(2)]
    race = Race.of(lines)
    assert race is not None
    assert race.share_of_best(key({"n_parallel": 9})) is None
    found = race.share_of_best(key({"n_parallel": 0}))
    assert found is not None
    assert round(found.ratio, 3) == 0.99
    assert Race.of([]) is None
