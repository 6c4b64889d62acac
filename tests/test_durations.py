"""Durations are read as Go reads them, to the error text."""

import math

import pytest

from vllama import durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", 300),
        ("1.5h", 5400),
        ("2h45m", 9900),
        ("300ms", 0.3),
        ("-1s", -1),
        ("0", 0),
        ("1us", 1e-6),
    ],
)
def test_a_duration_with_units_is_seconds(text: str, seconds: float) -> None:
    assert durations.parse(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("abc", 'time: invalid duration "abc"'),
        ("5", 'time: missing unit in duration "5"'),
        ("", 'time: invalid duration ""'),
        ("5x", 'time: unknown unit "x" in duration "5x"'),
        ("-", 'time: invalid duration "-"'),
    ],
)
def test_what_is_no_duration_is_refused_in_gos_words(text: str, error: str) -> None:
    with pytest.raises(ValueError, match="time:") as caught:
        durations.parse(text)
    assert str(caught.value) == error


def test_a_lifetime_may_be_bare_seconds_and_negative_is_for_ever() -> None:
    assert durations.parse_lifetime("300") == 300
    assert durations.parse_lifetime("-1") == math.inf
    assert durations.parse_lifetime("-5m") == math.inf
    assert durations.parse_lifetime("10s") == 10
