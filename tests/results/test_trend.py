"""A level that shifts is found where it shifts; noise alone is not."""

import random
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.results.test_ledger import FAILED, MEASURED
from vllama.results.record import Record
from vllama.results.trend import change_points, series


def noisy(levels: list[float], each: int, seed: int) -> list[float]:
    dice = random.Random(seed)
    return [level * dice.gauss(1, 0.01) for level in levels for _ in range(each)]


def course(values: list[float]) -> list[Record]:
    assert MEASURED.measurement is not None
    return [
        replace(
            MEASURED,
            started_at=MEASURED.started_at + timedelta(hours=hour),
            ended_at=MEASURED.ended_at + timedelta(hours=hour),
            git_commit=f"{hour:040x}",
            measurement=replace(MEASURED.measurement, output_tokens_per_s=value),
        )
        for hour, value in enumerate(values)
    ]


def test_one_shift_is_found_where_it_is() -> None:
    (change,) = change_points(noisy([100, 90], 12, seed=1))
    assert change.index == 12
    assert change.ratio == pytest.approx(0.9, rel=0.02)


def test_two_shifts_are_found_in_their_order() -> None:
    found = list(change_points(noisy([100, 120, 80], 10, seed=2)))
    assert [c.index for c in found] == [10, 20]


def test_noise_alone_seldom_looks_like_a_shift() -> None:
    false = sum(bool(list(change_points(noisy([100], 24, seed=s)))) for s in range(100))
    assert false <= 5


@pytest.mark.parametrize("count", range(6))
def test_too_few_points_show_no_shift(count: int) -> None:
    assert list(change_points([1.0 + n for n in range(count)])) == []


def test_a_series_is_in_order_of_time_and_leaves_out_failures() -> None:
    records = course([100.0, 101.0, 99.0])
    (one,) = series([records[2], FAILED, records[0], records[1]], "output_tokens_per_s")
    assert [p.value for p in one.points] == [100.0, 101.0, 99.0]
    assert "concurrent-5-short" in one.name


def test_another_machine_is_another_series() -> None:
    records = course([100.0, 50.0])
    records[1] = replace(records[1], machine="1x-nvidia-h200-141gb")
    assert len(series(records, "output_tokens_per_s")) == 2


def test_a_latency_can_be_followed_too() -> None:
    (one,) = series(course([100.0]), "ttft_s.p50")
    assert one.points[0].value == 0.11
