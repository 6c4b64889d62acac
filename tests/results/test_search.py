"""What a search says: best so far, the front, the verdict, and which options mattered."""

import random
from typing import Any

import pytest

from tests.results import documents
from vllama.results import metrics, search
from vllama.results.importance import importance
from vllama.results.search import Trial, best_so_far, front, trials, verdict


def trial(number: int, value: float | None, **options: Any) -> Trial:
    state = "failed" if value is None else "complete"
    return Trial(number, options, state, {}, value)


def test_trials_come_in_their_order_with_the_mean_over_workloads() -> None:
    read = trials(documents.tune())
    assert [t.number for t in read] == list(range(14))
    assert read[0].value == pytest.approx(412.0 * 0.7**0.5)
    assert [t.number for t in read if not t.complete] == [4, 8, 12]


def test_a_value_given_with_the_trial_is_the_one_that_counts() -> None:
    tune = documents.tune()
    tune["trials"][0]["value"] = 7
    assert trials(tune)[0].value == 7


def test_an_infeasible_trial_does_not_count_though_it_was_measured() -> None:
    tune = documents.tune()
    tune["trials"][0]["state"] = "infeasible"
    assert not trials(tune)[0].complete


def test_best_so_far_passes_over_failures_and_knows_which_way_is_better() -> None:
    tried = [trial(0, 5.0), trial(1, None), trial(2, 7.0), trial(3, 6.0)]
    assert best_so_far(tried, lower=False) == [(0, 5.0), (2, 7.0), (3, 7.0)]
    assert best_so_far(tried, lower=True) == [(0, 5.0), (2, 5.0), (3, 5.0)]


def test_the_front_keeps_what_nothing_beats_in_both() -> None:
    points = [(10, 1.0), (20, 2.0), (15, 3.0), (30, 9.0), (30, 8.0), (20, 2.0)]
    assert [points[i] for i in front(points)] == [(10, 1.0), (20, 2.0), (30, 8.0)]


@pytest.mark.parametrize(
    ("tune", "says"),
    [
        (documents.tune(), "Best beats the default"),
        (documents.tune_without_gain(), "The default was best"),
        (documents.tune_of_one_trial(), "Only the default was measured"),
        ({**documents.tune(), "best": documents.tune()["baseline"]}, "The default was best"),
        (documents.tune_that_failed(), "could not be measured"),
        ({**documents.tune(), "best": None}, "No trial was complete"),
        ({**documents.tune(), "gain": None}, "not compared with the default again"),
        (
            {**documents.tune(), "gain": {"metric": "ttft_s.p95", "ratio": 1.2, "ci95": None}},
            "noise was not estimated",
        ),
    ],
)
def test_the_verdict_is_said_in_words(tune: dict[str, Any], says: str) -> None:
    assert says in verdict(tune)


def test_the_metric_of_the_search_is_the_gains() -> None:
    gain = {"metric": "ttft_p95", "ratio": 1.1, "ci95": [1.05, 1.15]}
    tune = {**documents.tune(), "gain": gain}
    read = trials(tune)[0]
    expected = [m["ttft_s"]["p95"] for m in read.measurements.values()]
    assert read.value == pytest.approx((expected[0] * expected[1]) ** 0.5)
    assert "TTFT p95" in verdict(tune)
    assert search.metric(tune) == "ttft_p95"


def test_the_option_that_drives_the_value_matters_most() -> None:
    dice = random.Random(3)
    tried = []
    for number in range(40):
        slots, kind, noise = dice.randint(1, 16), dice.choice(["f16", "q8"]), dice.random()
        value = 10.0 * slots + (20 if kind == "q8" else 0) + noise
        settings = {"slots": slots, "kind": kind, "fixed": 1, "idle": dice.random()}
        tried.append(trial(number, value, **settings))
    shares = dict(importance(tried))
    assert list(shares)[:2] == ["slots", "kind"]
    assert shares["slots"] > 0.8 > shares["kind"] > shares["idle"]
    assert "fixed" not in shares


def test_importance_keeps_silent_below_ten_complete_trials() -> None:
    tried = [trial(n, float(n), slots=n) for n in range(9)] + [trial(9, None, slots=9)]
    assert importance(tried) == []


def test_equal_values_explain_nothing() -> None:
    assert importance([trial(n, 1.0, slots=n % 3, kind=str(n % 2)) for n in range(12)]) == []


@pytest.mark.parametrize(
    ("name", "number", "shown"),
    [
        ("ttft_s.p95", 0.01234, "12.3 ms"),
        ("e2e_p50", 1.5, "1.50 s"),
        ("output_tokens_per_s", 999.6, "1,000"),
        ("requests_per_s", 0.0456, "0.0456"),
        ("peak_memory_bytes", 2.5 * 1024**3, "2.50 GiB"),
        ("output_tokens_per_s", 12345.6, "12,346"),
        ("ttft_s.p99", None, "–"),
        ("requests_per_s", 0.0, "0"),
    ],
)
def test_a_figure_reads_with_its_unit(name: str, number: float | None, shown: str) -> None:
    assert metrics.reading(name, number) == shown
