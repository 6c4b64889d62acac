"""How long a start should take: what finds compiled code is short."""

from tests.tuner import machines as on
from vllama.profile import Scalar
from vllama.tuner import start_times
from vllama.tuner.trial import Trial

SPACE = on.vllm_space(on.machine(), on.chat(16, 2000), kv_cache_memory_bytes=2**30)
PLAIN: dict[str, Scalar] = {"optimization_level": 0}
SMALL: dict[str, Scalar] = {"max_num_seqs": 8}


def took(number: int, options: dict[str, Scalar], seconds: float) -> Trial:
    return Trial(number, options, "complete", seconds=seconds, start_s=seconds / 2)


def seconds(trials: list[Trial], *candidates: dict[str, Scalar]) -> list[float]:
    return [float(s) for s in start_times.expected(SPACE, candidates, trials)]


def test_before_anything_was_measured_all_take_as_long() -> None:
    assert seconds([], {}, PLAIN) == [1.0, 1.0]


def test_a_start_like_an_earlier_one_takes_as_long_as_its_repeats() -> None:
    same: dict[str, Scalar] = {"enable_prefix_caching": False}
    trials = [took(0, {}, 90.0), took(1, same, 50.0)]
    assert seconds(trials, {"long_prefill_token_threshold": 512}, SMALL) == [50.0, 90.0]


def test_what_a_repeat_saves_is_learned_from_others() -> None:
    repeated = [took(0, {}, 100.0), took(1, {"enable_prefix_caching": False}, 60.0)]
    trials = [*repeated, took(2, SMALL, 80.0)]
    assert seconds(trials, {**SMALL, "enable_prefix_caching": False}) == [48.0]


def test_a_new_kind_takes_as_long_as_the_first_of_those_most_like_it() -> None:
    trials = [took(0, {}, 90.0), took(1, PLAIN, 30.0)]
    assert seconds(trials, {**PLAIN, **SMALL}, SMALL) == [30.0, 90.0]


def test_crashes_and_what_had_no_start_of_its_own_say_nothing() -> None:
    failed = Trial(1, PLAIN, "failed", seconds=5.0)
    beside = Trial(2, SMALL, "complete", origin="live", seconds=4.0)
    assert seconds([took(0, {}, 90.0), failed, beside], PLAIN, SMALL) == [90.0, 90.0]
