"""Measurements are arithmetic over samples: counts exact, definitions as printed."""

from dataclasses import astuple

import pytest

from vllama.bench.measurement import Run, Sample, quantiles, summarize


def streamed(sent: float, first: float, gap: float, tokens: int, **more: object) -> Sample:
    chunks = tuple(first + i * gap for i in range(tokens))
    return Sample(sent, sent, chunks[-1], chunks, 50, tokens, **more)  # type: ignore[arg-type]


def test_times_follow_their_definitions() -> None:
    shown = summarize(Run((streamed(1.0, 1.5, 0.1, 11),), 1.0, 2.5))
    assert shown.ttft_s is not None
    assert shown.ttft_s.p50 == pytest.approx(0.5)
    assert shown.itl_s is not None
    assert shown.itl_s.mean == pytest.approx(0.1)
    assert shown.tpot_s is not None
    assert shown.tpot_s.p50 == pytest.approx(0.1)
    assert shown.e2e_s is not None
    assert shown.e2e_s.p50 == pytest.approx(1.5)
    assert shown.output_tokens_per_s == pytest.approx(11 / 1.5)


def test_a_chunk_of_several_tokens_shortens_tpot_but_not_the_gap() -> None:
    sample = Sample(0, 0, 1.0, (0.0, 0.5, 1.0), 50, 9)
    shown = summarize(Run((sample,), 0, 1))
    assert shown.itl_s is not None
    assert shown.itl_s.mean == pytest.approx(0.5)
    assert shown.tpot_s is not None
    assert shown.tpot_s.mean == pytest.approx(1 / 8)
    assert shown.tokens_per_chunk == 3


def test_only_tokens_that_arrived_in_the_window_count() -> None:
    run = Run((streamed(0, 0.0, 1.0, 10),), 2.5, 5.5)
    assert summarize(run).output_tokens_per_s == pytest.approx(1.0)


def test_an_unstreamed_answer_counts_by_its_share_of_the_window() -> None:
    run = Run((Sample(0, 0, 10, (), 50, 100),), 5, 10)
    shown = summarize(run)
    assert shown.output_tokens_per_s == pytest.approx(10)
    assert shown.requests_per_s == pytest.approx(0.1)
    assert shown.total_tokens_per_s == pytest.approx(15)
    assert shown.ttft_s is None


def test_a_failed_request_is_counted_and_named_and_never_fast() -> None:
    failed = Sample(0, 0, 0.001, (0.001,), 50, 64, error="reset")
    shown = summarize(Run((failed, streamed(0, 1.0, 0.0, 2)), 0, 2))
    assert (shown.completed, shown.failed, shown.failures) == (1, 1, {"reset": 1})
    assert shown.ttft_s is not None
    assert shown.ttft_s.p50 == 1.0
    assert shown.output_tokens_per_s == 1.0


def test_what_only_keeps_the_load_up_adds_tokens_but_no_latencies() -> None:
    filler = streamed(0, 9.0, 0.0, 2, measured=False)
    shown = summarize(Run((filler, streamed(0, 1.0, 0.0, 2)), 0, 10))
    assert shown.completed == 1
    assert shown.ttft_s is not None
    assert shown.ttft_s.p50 == 1.0
    assert shown.output_tokens_per_s == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("count", "p95", "p99"), [(71, False, False), (72, True, False), (368, True, True)]
)
def test_a_percentile_is_shown_only_where_the_sample_supports_it(
    count: int, p95: bool, p99: bool
) -> None:
    found = quantiles([float(i) for i in range(count)])
    assert found is not None
    assert (found.p95 is not None, found.p99 is not None) == (p95, p99)


def test_quantiles_are_those_of_numpy() -> None:
    import numpy as np

    values = np.random.default_rng(1).exponential(size=500)
    found = quantiles([float(v) for v in values])
    assert found is not None
    wanted = [np.mean(values), *np.quantile(values, [0.5, 0.95, 0.99])]
    assert astuple(found) == pytest.approx([float(w) for w in wanted])


def test_wrong_counts_of_tokens_make_the_run_suspect() -> None:
    early = Sample(0, 0, 1, (0.5, 1.0), 50, 40, asked_prompt_tokens=50, asked_output_tokens=64)
    assert summarize(Run((early,), 0, 1)).suspect == (
        "1 of 1 requests: output tokens asked 64, the server counted 40.0",
    )


def test_runs_are_pooled_over_the_sum_of_their_windows() -> None:
    run = Run((streamed(0, 0.5, 0.1, 5),), 0, 1)
    both = summarize(run, run)
    assert (both.completed, both.duration_s) == (2, 2)
    assert both.output_tokens_per_s == summarize(run).output_tokens_per_s


def test_a_metric_is_found_by_its_name() -> None:
    shown = summarize(Run((streamed(0, 0.5, 0.1, 5),), 0, 1))
    assert shown.metric("ttft_s.p50") == 0.5
    assert shown.metric("output_tokens_per_s") == 5
    assert shown.metric("ttft_s.p99") is None
    assert shown.to_json()["ttft_s"]["p50"] == 0.5
