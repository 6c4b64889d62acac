"""What counts as better, and what counts as broken."""

import math

import pytest

from tests.tuner.simulated import measurement
from vllama.errors import UsageError
from vllama.tuner import slo
from vllama.tuner.objective import Objective


def test_a_gain_over_several_loads_is_the_geometric_mean_of_their_ratios() -> None:
    default = {"a": measurement(1000), "b": measurement(10)}
    other = {"a": measurement(2000), "b": measurement(5)}
    assert math.isclose(Objective("throughput").ratio(other, default), 1.0)


def test_latency_counts_the_first_token_and_each_next_alike() -> None:
    default, other = {"a": measurement(100, ttft_s=0.4)}, {"a": measurement(400, ttft_s=0.4)}
    assert math.isclose(Objective("latency").ratio(other, default), 2.0)
    assert math.isclose(Objective("balanced").ratio(other, default), math.sqrt(8))


def test_a_limit_that_is_broken_on_one_load_is_broken() -> None:
    objective = Objective("throughput", (slo.parse("tpot_mean=20ms"),))
    assert objective.holds({"a": measurement(1000)})
    assert not objective.holds({"a": measurement(1000), "b": measurement(100)})


def test_failed_requests_break_it_without_any_limit() -> None:
    assert not Objective("throughput").holds({"a": measurement(1000, failed=50)})


@pytest.mark.parametrize(
    "text", ["ttft=500ms", "ttft_p95", "ttft_p42=1s", "ttft_p95=fast", "ttft_p95=0s", ""]
)
def test_what_is_no_limit_is_refused_with_the_right_form(text: str) -> None:
    with pytest.raises(UsageError):
        slo.parse(text)


def test_a_limit_reads_as_it_is_written() -> None:
    assert str(slo.parse("ttft_p95=1.5s")) == "ttft_p95=1500ms"
