"""What is predicted before a start, against real logs, known sums, and what starts teach."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tuner import machines as on
from vllama.bench.measurement import Measurement, Quantiles
from vllama.bench.workload import Workload
from vllama.engines.vllm_log import Story
from vllama.machine import GIB, Cpu, Machine
from vllama.model import Shape
from vllama.tuner import gpus
from vllama.tuner.calibration import Start
from vllama.tuner.fit import Fit, Prediction

STARTS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "cpu_starts.json").read_text()
)
LONG = on.chat(64, 1024, 256)


def h100(**options: Any) -> Fit:
    here = gpus.named("H100")
    return Fit.of(on.vllm_space(here, LONG, shape=on.QWEN_8B, **options).ground)


def recorded(start: dict[str, Any]) -> Fit:
    """The fit that stood before this recorded start of a real vLLM on a CPU."""
    cpu = Cpu("AMD EPYC", cores=2, physical_cores=2, features=frozenset({"avx2"}))
    here = Machine((), cpu, start["memory_bytes"], start["available_bytes"])
    return Fit.of(on.vllm_space(here, on.chat(16), shape=Shape(**start["shape"])).ground)


def facts(start: dict[str, Any]) -> dict[str, Any]:
    story = Story()
    for line in start["log"]:
        story.read(line)
    return story.facts


def off(fit: Fit, start: dict[str, Any]) -> float:
    real = facts(start)["kv_cache_tokens"]
    return abs(float(fit.verdict(start["options"]).kv_tokens / real) - 1)


@pytest.mark.parametrize("start", STARTS, ids=lambda s: str(s["options"]))
def test_kv_capacity_is_within_8_percent_of_real_logs_before_any_start(
    start: dict[str, Any],
) -> None:
    assert off(recorded(start), start) <= 0.08


@pytest.mark.parametrize("first", range(3))
def test_kv_capacity_is_within_3_percent_of_real_logs_after_one_start(first: int) -> None:
    same = [s for s in STARTS if s["shape"]["parameters"] == STARTS[0]["shape"]["parameters"]]
    assert len(same) == 3
    fit = recorded(same[first]).calibrate(same[first]["options"], facts(same[first]))
    for start in same:
        assert off(fit, start) <= 0.03


def test_a_start_corrects_the_prediction_of_itself() -> None:
    start = next(s for s in STARTS if s["options"].get("dtype") == "float32")
    before = recorded(start)
    after = before.calibrate(start["options"], facts(start))
    assert off(after, start) < 0.005 < off(before, start)


@pytest.mark.vllm
async def test_a_real_vllm_holds_as_many_tokens_as_predicted(vllm_endpoint: Any, toy: Path) -> None:
    from vllama import weights

    shape = weights.read(toy, "toy").shape
    options: dict[str, Any] = {"kv_cache_memory_bytes": "256M", "max_model_len": 2048}
    fit = Fit.of(on.vllm_space(on.machine(), shape=shape, **options).ground)
    assert fit.verdict({}).kv_tokens == vllm_endpoint.facts["kv_cache_tokens"]


def test_an_explicit_cache_holds_exactly_its_blocks() -> None:
    # Met on a real vLLM: 2048 bytes a token, 1 GiB held 524,288 tokens, and 1 MB 3 blocks.
    shape = replace(on.TOY, layers=4, kv_bytes_per_token=2048)
    for given, tokens in ((2**30, 524288), (10**6, 384)):
        fit = Fit.of(on.vllm_space(on.machine(), shape=shape, kv_cache_memory_bytes=given).ground)
        assert fit.verdict({}).kv_tokens == tokens


def test_a_mixture_over_four_cards_holds_what_a_published_log_says() -> None:
    # Qwen3-235B-A22B on 4 GPUs: 8.11 GiB a card held 178,880 tokens (vLLM issue 21348).
    shape = replace(
        on.QWEN_8B, layers=94, heads=64, kv_heads=4, kv_bytes_per_token=2 * 94 * 4 * 128 * 2
    )
    options: dict[str, Any] = {"tensor_parallel_size": 4, "kv_cache_memory_bytes": int(8.11 * GIB)}
    fit = Fit.of(on.vllm_space(gpus.named("H100x4"), shape=shape, **options).ground)
    assert fit.verdict({}).kv_tokens == pytest.approx(178_880, rel=0.02)


@pytest.mark.parametrize(("length", "gib"), [(20000, 3.81), (29000, 2.89)])
def test_an_8b_leaves_of_a_24_gb_card_what_published_logs_say(length: int, gib: float) -> None:
    # Llama 3.1 8B on an RTX 3090 at 0.9, every step as long as the context (vLLM issue 10517).
    llama = replace(
        on.QWEN_8B,
        layers=32,
        intermediate_size=14336,
        vocabulary=128256,
        kv_bytes_per_token=131072,
        weight_bytes=16_060_522_496,
        context_length=131072,
    )
    options: dict[str, Any] = {
        "max_model_len": length,
        "max_num_batched_tokens": length,
        "max_num_seqs": 256,
    }
    space = on.vllm_space(gpus.named("RTX 3090"), shape=llama, version="0.11.0", **options)
    verdict = Fit.of(space.ground).verdict({"gpu_memory_utilization": 0.9})
    assert verdict.budget.kv_bytes == pytest.approx(gib * GIB, rel=0.08)
    # The first holds a whole request and the second, by a fifth, does not: so it was.
    assert verdict.fits == (length == 20000)


def test_a_model_too_large_for_a_card_is_told_so_and_fits_on_two() -> None:
    large = replace(
        on.QWEN_8B, layers=80, heads=64, weight_bytes=141 * 10**9, parameters=70 * 10**9
    )
    one = Fit.of(on.vllm_space(gpus.named("H100"), shape=large, max_model_len=8192).ground)
    assert not one.verdict({}).fits
    assert "leave nothing" in one.verdict({}).reason
    two = Fit.of(on.vllm_space(gpus.named("H200x2"), shape=large, max_model_len=8192).ground)
    assert two.verdict({"tensor_parallel_size": 2}).fits


def test_memory_that_others_hold_is_not_promised() -> None:
    card = replace(on.gpu(), free_bytes=40 * GIB)
    fit = Fit.of(on.vllm_space(on.machine(card), shape=on.QWEN_8B, max_model_len=8192).ground)
    verdict = fit.verdict({})
    assert not verdict.fits
    assert "40.0 GiB are free" in verdict.reason
    assert fit.verdict({"gpu_memory_utilization": 0.45}).fits


def test_llamacpp_needs_weights_and_context_at_once() -> None:
    fit = Fit.of(on.llamacpp_space(on.machine(gib=18), shape=on.QWEN_8B).ground)
    assert fit.verdict({"n_ctx": 8192}).fits
    assert not fit.verdict({"n_ctx": 65536}).fits
    lossy: dict[str, Any] = {"n_ctx": 32768, "cache_type_k": "q8_0", "cache_type_v": "q8_0"}
    assert fit.verdict(lossy).fits
    assert not fit.verdict({"n_ctx": 32768}).fits


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({"kv_cache_dtype": "fp8"}, 2.0),
        ({"tensor_parallel_size": 2}, 2.0),
        ({"pipeline_parallel_size": 2}, 2.0),
    ],
)
def test_halving_the_bytes_of_a_token_doubles_the_tokens(
    options: dict[str, Any], tokens: float
) -> None:
    fit = Fit.of(
        on.vllm_space(
            gpus.named("H100x2"),
            shape=on.QWEN_8B,
            max_model_len=8192,
            kv_cache_memory_bytes="8G",
        ).ground
    )
    before, after = fit.verdict({}).kv_tokens, fit.verdict(options).kv_tokens
    assert after == pytest.approx(tokens * before, rel=0.01)


def test_latent_attention_is_not_shared_out() -> None:
    latent = replace(on.QWEN_8B, is_latent=True, kv_heads=128)
    options: dict[str, Any] = {"max_model_len": 8192, "kv_cache_memory_bytes": "8G"}
    fit = Fit.of(on.vllm_space(gpus.named("H100x2"), shape=latent, **options).ground)
    assert fit.verdict({"tensor_parallel_size": 2}).kv_tokens == fit.verdict({}).kv_tokens


def test_sliding_windows_hold_longer_contexts_in_the_same_room() -> None:
    options: dict[str, Any] = {"max_model_len": 40960, "kv_cache_memory_bytes": "8G"}
    sliding = replace(on.QWEN_8B, sliding_layers=30, sliding_window=1024)
    here = gpus.named("H100")
    full = Fit.of(on.vllm_space(here, shape=on.QWEN_8B, **options).ground).verdict({})
    short = Fit.of(on.vllm_space(here, shape=sliding, **options).ground).verdict({})
    assert 2 < short.sequences / full.sequences < 6
    # A window is kept for what a step may bring in, too.
    smaller = Fit.of(on.vllm_space(here, shape=sliding, **options).ground)
    assert smaller.verdict({"max_num_batched_tokens": 1024}).sequences > 1.3 * short.sequences


def expected(fit: Fit, load: Workload = LONG, **options: Any) -> Prediction:
    return fit.predict(options, load)


def test_one_stream_cannot_be_faster_than_the_weights_can_be_read() -> None:
    found = expected(h100(), on.chat(1, 64, 256))
    ceiling = 3.35e12 / on.QWEN_8B.weight_bytes
    assert 0.5 * ceiling < found.output_tokens_per_s < ceiling
    assert found.bound_by == "memory bandwidth"


def test_more_in_flight_gives_more_until_arithmetic_is_the_limit() -> None:
    found = [expected(h100(), on.chat(c, 1024, 256)) for c in (1, 8, 64, 256)]
    rates = [p.output_tokens_per_s for p in found]
    assert rates == sorted(rates)
    assert rates[1] > 5 * rates[0]
    assert rates[3] < 1.5 * rates[2]
    assert found[3].bound_by == "arithmetic"
    assert [p.tpot_s for p in found] == sorted(p.tpot_s for p in found)


def test_too_few_sequences_make_requests_wait() -> None:
    wide, narrow = expected(h100(), max_num_seqs=64), expected(h100(), max_num_seqs=8)
    assert narrow.output_tokens_per_s < 0.5 * wide.output_tokens_per_s
    assert narrow.ttft_s > 10 * wide.ttft_s
    assert narrow.tpot_s < wide.tpot_s


def test_two_linked_cards_shorten_each_token() -> None:
    fit = Fit.of(on.vllm_space(gpus.named("H100x2"), LONG, shape=on.QWEN_8B).ground)
    one, two = expected(fit), expected(fit, tensor_parallel_size=2)
    assert 0.45 < two.tpot_s / one.tpot_s < 0.9


def test_a_shared_prefix_is_read_once_with_the_cache() -> None:
    load = Workload("rag", 4096, 64, concurrency=32, shared_prefix_tokens=3968)
    fit = h100()
    cached, not_cached = expected(fit, load), expected(fit, load, enable_prefix_caching=False)
    assert cached.output_tokens_per_s > 3 * not_cached.output_tokens_per_s
    assert cached.ttft_s < 0.5 * not_cached.ttft_s


def test_of_a_mixture_one_token_reads_few_experts_and_a_batch_reads_all() -> None:
    mixture = replace(
        on.QWEN_8B, experts=128, experts_per_token=8, expert_bytes=15 * 10**9,
        active_parameters=1_500_000_000,
    )  # fmt: skip
    here = gpus.named("H100")
    fit = Fit.of(on.vllm_space(here, LONG, shape=mixture).ground)
    alone, dense = (expected(f, on.chat(1, 64, 256)) for f in (fit, h100()))
    assert alone.output_tokens_per_s > 3 * dense.output_tokens_per_s
    crowd, dense = (expected(f, on.chat(128, 64, 256)) for f in (fit, h100()))
    assert crowd.output_tokens_per_s < 2 * dense.output_tokens_per_s


def test_llamacpp_reads_prompts_with_the_threads_for_prompts() -> None:
    fit = Fit.of(on.llamacpp_space(on.machine(), shape=on.QWEN_8B, threads=4).ground)
    slow = expected(fit, on.chat(4, 512, 64), n_parallel=4, threads=4, threads_batch=1)
    fast = expected(fit, on.chat(4, 512, 64), n_parallel=4, threads=1, threads_batch=4)
    assert fast.output_tokens_per_s > 2 * slow.output_tokens_per_s


def measured(prediction: Prediction, slower: float) -> Measurement:
    def times(mean: float) -> Quantiles:
        return Quantiles(mean * slower, mean * slower, None, None)

    rate = prediction.output_tokens_per_s / slower
    return Measurement(
        duration_s=10, completed=100, failed=0, requests_per_s=rate / 256,
        output_tokens_per_s=rate, total_tokens_per_s=5 * rate, prompt_tokens=102400,
        output_tokens=25600, ttft_s=times(prediction.ttft_s), itl_s=None,
        tpot_s=times(prediction.tpot_s), e2e_s=None,
    )  # fmt: skip


def test_a_measured_start_makes_other_predictions_true() -> None:
    """The machine is in truth slower than its data sheet; one start tells it."""
    fit = h100()
    truth = replace(fit, reached=replace(fit.reached, bandwidth=0.45, flops=0.25, host_step_s=3e-3))
    loads = [on.chat(c, 1024, 256) for c in (1, 16, 64, 256)]
    seen = {load: measured(truth.predict({}, load), 1.0) for load in loads}
    learned = fit.calibrate({}, {}, seen)
    assert learned.error < fit.error
    for options in ({"max_num_seqs": 32}, {"max_num_batched_tokens": 2048}):
        for load in (*loads, on.chat(40, 500, 100)):
            real, before, after = (
                f.predict(options, load).output_tokens_per_s for f in (truth, fit, learned)
            )
            assert before > 1.3 * real
            assert after == pytest.approx(real, rel=0.1)


def test_several_starts_at_once_teach_what_they_teach_one_after_the_other() -> None:
    fit = h100()
    starts = [
        Start({"max_num_seqs": seqs}, {}, ((LONG, measured(fit.predict({}, LONG), off)),))
        for seqs, off in ((8, 0.5), (64, 0.8), (256, 1.3))
    ]
    one_by_one = fit
    for start in starts:
        one_by_one = one_by_one.calibrate(start.options, start.facts, start.measurements)
    at_once = fit.calibrate_all(starts)
    assert at_once == one_by_one
    assert at_once.predict({}, LONG) != fit.predict({}, LONG)
    assert fit.calibrate_all([]) == fit


def test_one_wild_measurement_does_not_spoil_the_rest() -> None:
    fit = h100()
    loads = [on.chat(c, 1024, 256) for c in (1, 4, 16, 64, 256)]
    seen = {load: measured(fit.predict({}, load), 1.0) for load in loads}
    seen[loads[2]] = measured(fit.predict({}, loads[2]), 8.0)
    learned = fit.calibrate({}, {}, seen)
    for load in loads:
        before, after = (f.predict({}, load).output_tokens_per_s for f in (fit, learned))
        assert after == pytest.approx(before, rel=0.2)


def test_a_start_without_any_facts_changes_nothing() -> None:
    fit = h100()
    learned = fit.calibrate({"max_num_seqs": 8}, {})
    assert learned.predict({}, LONG) == fit.predict({}, LONG)
    assert learned.verdict({}) == fit.verdict({})


def test_parts_that_a_gpu_log_tells_are_taken_from_it() -> None:
    fit = h100(max_model_len=8192)
    lines = (
        "Model loading took 15.5 GiB memory and 3.1 seconds",
        "Free memory on device (79.0/79.2 GiB) on startup. Actual usage is 16.3 GiB for consumed "
        "memory (weights + non-torch), 3.1 GiB for peak activation, and 1.4 GiB for CUDAGraph "
        "memory.",
        "Available KV cache memory: 52.0 GiB",
        "GPU KV cache size: 378,648 tokens",
    )
    story = Story()
    for line in lines:
        story.read(line)
    budget = fit.calibrate({}, story.facts).verdict({}).budget
    assert budget.weight_bytes == pytest.approx(15.5 * GIB, rel=0.01)
    assert budget.activation_bytes == pytest.approx(3.1 * GIB, rel=0.01)
    assert budget.graph_bytes == pytest.approx(1.4 * GIB, rel=0.01)
    assert budget.kv_bytes == pytest.approx(52.0 * GIB, rel=0.01)


def test_every_number_in_a_reason_is_readable() -> None:
    for fit in (h100(), recorded(STARTS[0])):
        reason = fit.verdict({}).reason
        assert not re.search(r"\d{12}|nan|inf", reason)


def test_vllm_on_a_processor_takes_its_share_of_one_memory_node() -> None:
    cpu = replace(on.CPU, node_bytes=12 * GIB)
    whole, node = on.machine(gib=24), replace(on.machine(gib=24), cpu=cpu)
    half, all_ = {"gpu_memory_utilization": 0.5}, {"gpu_memory_utilization": 1.0}
    on_node = Fit.of(on.vllm_space(node).ground).verdict(all_)
    on_whole = Fit.of(on.vllm_space(whole).ground).verdict(half)
    assert on_node.kv_tokens == on_whole.kv_tokens
