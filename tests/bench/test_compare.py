"""Verdicts by pairs: seldom wrong without a change, sure of a real one, honest in between."""

import math
import random

import pytest

from vllama.bench.compare import interval, paired


def block(rng: random.Random, level: float, drift: float, disturbed: float) -> float:
    noise = rng.gauss(0, 0.012) + drift
    if rng.random() < disturbed:
        noise += math.log(rng.uniform(0.6, 0.95))
    return level * math.exp(noise)


def verdicts(change: float, pairs: int, runs: int = 1000, disturbed: float = 0.05) -> list[str]:
    rng = random.Random(5)
    found: list[str] = []
    for _ in range(runs):
        drift = rng.gauss(0, 0.01)
        sides: list[list[float]] = [[], []]
        for i in range(pairs):
            for side in (0, 1) if i % 2 == 0 else (1, 0):
                level = 100 * (1 + change) if side else 100.0
                sides[side].append(block(rng, level, drift * i / pairs, disturbed))
        found.append(paired(*sides, lower_is_better=False).verdict)
    return found


@pytest.mark.parametrize("pairs", [3, 6, 10, 20])
def test_without_a_change_at_most_one_in_twenty_is_called_one(pairs: int) -> None:
    found = verdicts(0.0, pairs)
    false = sum(v in ("faster", "slower") for v in found) / len(found)
    assert false <= 0.05


def test_five_percent_slower_is_found_in_nineteen_of_twenty() -> None:
    found = verdicts(-0.05, pairs=10)
    assert found.count("slower") / len(found) >= 0.95
    assert "faster" not in found


def test_a_long_series_without_a_change_is_called_the_same() -> None:
    found = verdicts(0.0, pairs=60, runs=100)
    assert found.count("same") >= 95


def test_one_pair_decides_nothing() -> None:
    found = paired([100], [50], lower_is_better=False)
    assert (found.ratio, found.ci95, found.verdict) == (0.5, None, "undecided")


@pytest.mark.parametrize(("lower", "verdict"), [(True, "faster"), (False, "slower")])
def test_which_way_is_better_decides_the_word(lower: bool, verdict: str) -> None:
    found = paired([10.0] * 6, [8.0, 8.1, 8.2, 7.9, 8.0, 8.1], lower_is_better=lower)
    assert found.verdict == verdict


def test_undecided_comes_with_the_pairs_that_would_probably_decide_it() -> None:
    baseline, candidate = [100.0, 90, 110, 95, 104, 99], [103.0, 99, 108, 91, 110, 102]
    found = paired(baseline, candidate, lower_is_better=False)
    assert found.verdict == "undecided"
    assert found.pairs_needed is not None
    assert found.pairs_needed > 6


def test_a_disturbed_block_does_not_move_a_verdict() -> None:
    steady = [100.0, 101, 99, 100, 100.5, 99.5, 100.2, 99.8]
    disturbed = [x * 1.05 for x in steady]
    disturbed[3] = 20.0
    assert paired(steady, disturbed, lower_is_better=False).verdict == "faster"


def test_the_interval_of_few_values_is_students() -> None:
    from scipy import stats

    values = [1.0, 1.1, 1.3, 1.2]
    logs = [math.log(v) for v in values]
    wanted = stats.t.interval(0.95, 3, sum(logs) / 4, stats.sem(logs))
    assert interval(values) == pytest.approx([math.exp(x) for x in wanted])


def test_what_has_no_ratio_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        paired([1.0, 0.0], [1.0, 1.0], lower_is_better=True)
    with pytest.raises(ValueError, match="pairs"):
        paired([1.0], [1.0, 1.0], lower_is_better=True)
