"""What may be varied: only what can work here, each exclusion with its reason."""

from dataclasses import replace

import pytest

from tests.tuner import machines as on
from vllama.errors import UsageError
from vllama.machine import Gpu
from vllama.profile import Profile
from vllama.tuner.accuracy import lossy
from vllama.tuner.knobs_vllm_cpu import THREADS, WORKER
from vllama.tuner.objective import Objective
from vllama.tuner.space import Knob, Space, build
from vllama.tuner.subject import Subject

CPU = on.machine()
ONE_GPU = on.machine(on.gpu())
FOUR_GPUS = on.machine(*(on.gpu(i) for i in range(4)))
SPACES = {
    "vllm on a CPU": on.vllm_space(CPU, kv_cache_memory_bytes=2**30),
    "vllm on a CPU with little KV": on.vllm_space(
        CPU, on.chat(64, 2000, 200), kv_cache_memory_bytes=2**24
    ),
    "vllm on a GPU": on.vllm_space(ONE_GPU, on.chat(100, 500, 100), shape=on.QWEN_8B),
    "vllm on four GPUs": on.vllm_space(FOUR_GPUS, on.chat(600, 2000, 100), shape=on.QWEN_8B),
    "llamacpp on a CPU": on.llamacpp_space(CPU),
    "llamacpp for one user": on.llamacpp_space(CPU, on.chat(1)),
    "llamacpp on a GPU": on.llamacpp_space(ONE_GPU, on.sharing(512), shape=on.QWEN_8B),
}
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())


def knob(space: Space, name: str) -> Knob:
    return next(k for k in space.knobs if k.name == name)


def names(space: Space) -> set[str]:
    return {k.name for k in space.knobs}


def reason(space: Space, option: str) -> str:
    return next(r.reason for r in space.ruled_out if r.option == option)


@every_space
def test_the_default_can_be_left_alone_and_is_the_first_seed(space: Space) -> None:
    assert space.seeds[0] == {}
    assert space.check({}) is None
    for each in space.knobs:
        assert each.default in each.choices
        assert space.launch({each.name: each.default}) == {}


@every_space
def test_every_seed_can_work_and_differs_from_the_others(space: Space) -> None:
    assert len(space.seeds) >= 2 or space is SPACES["llamacpp for one user"]
    for number, seed in enumerate(space.seeds):
        assert space.check(seed) is None
        assert seed not in space.seeds[:number]


@every_space
def test_every_exclusion_has_a_reason_in_words(space: Space) -> None:
    assert len({r.option for r in space.ruled_out}) == len(space.ruled_out)
    for out in space.ruled_out:
        assert out.option.split("=")[0] not in names(space)
        assert len(out.reason.split()) >= 3


@every_space
def test_numbers_rise_and_lie_between_nought_and_one(space: Space) -> None:
    for each in space.knobs:
        assert len(set(each.choices)) == len(each.choices) >= 2
        places = [each.coordinate(c) for c in each.choices]
        assert places == sorted(places)
        assert (places[0], places[-1]) == (0, 1)
        assert [each.nearest(c) for c in each.choices] == list(each.choices)


@every_space
def test_a_choice_becomes_a_launch_and_back(space: Space) -> None:
    for _, launch in zip(range(200), space.combinations(), strict=False):
        choice = space.choice(launch)
        assert set(choice) == names(space)
        assert space.launch(choice) == launch


@every_space
def test_neighbours_differ_in_one_knob_and_can_work(space: Space) -> None:
    centre = space.choice({})
    found = list(space.neighbourhood({}))
    assert found
    for near in found:
        choice = space.choice(near)
        assert sum(choice[k] != centre[k] for k in centre) == 1
        assert space.check(near) is None


def test_an_option_the_installed_version_lacks_is_not_varied() -> None:
    space = on.vllm_space(CPU, takes=frozenset({"max_num_seqs", "max_num_batched_tokens"}))
    assert names(space) <= {"max_num_seqs", "max_num_batched_tokens", THREADS, WORKER}
    assert reason(space, "optimization_level") == "vllm 0.32.0 does not take this option"


def test_a_batch_must_have_a_token_for_each_sequence() -> None:
    space = on.vllm_space(ONE_GPU, on.chat(1000, 500), shape=on.QWEN_8B)
    assert space.check({"max_num_seqs": 1024, "max_num_batched_tokens": 512}) == (
        "max_num_seqs 1024 is more than max_num_batched_tokens 512"
    )
    assert space.check({"max_num_batched_tokens": 512}) is not None  # 1024 sequences by default
    assert space.check({"max_num_seqs": 512, "max_num_batched_tokens": 512}) is None


@pytest.mark.parametrize(
    ("card", "version", "sequences", "tokens"),
    [
        (None, "0.32.0", 128, 2048),
        (on.gpu(gib=24, name="NVIDIA L4"), "0.32.0", 256, 2048),
        (on.gpu(gib=80, name="NVIDIA A100-SXM4-80GB"), "0.32.0", 256, 2048),
        (on.gpu(gib=80), "0.32.0", 1024, 8192),
        (on.gpu(gib=180, name="NVIDIA B200"), "0.32.0", 1024, 16384),
        (on.gpu(gib=180, name="NVIDIA B200"), "0.20.0", 1024, 8192),
    ],
)
def test_vllm_defaults_follow_the_hardware(
    card: Gpu | None, version: str, sequences: int, tokens: int
) -> None:
    here = on.machine(card) if card else CPU
    space = on.vllm_space(here, on.chat(64, 2000), version=version)
    assert knob(space, "max_num_seqs").default == sequences
    assert knob(space, "max_num_batched_tokens").default == tokens


def test_more_sequences_than_the_load_has_are_not_tried() -> None:
    space = on.vllm_space(CPU, on.chat(16))
    tried = set(knob(space, "max_num_seqs").choices) - {128}
    assert max(map(int, tried)) == 16
    assert min(map(int, tried)) >= 2


def test_what_only_a_gpu_has_is_ruled_out_on_a_cpu() -> None:
    space = on.vllm_space(CPU)
    for option in ("gpu_memory_utilization", "attention_backend", "async_scheduling"):
        assert reason(space, option) == "there is no GPU"


def test_how_threads_are_bound_is_tried_on_a_cpu_though_no_option_says_it() -> None:
    space = SPACES["vllm on a CPU"]
    assert knob(space, THREADS).choices == ("auto", "nobind")
    assert {"max_num_seqs": 16, THREADS: "nobind"} in space.seeds
    assert reason(SPACES["vllm on a GPU"], THREADS) == "it is for vLLM on a processor"


def test_computing_in_the_schedulers_process_is_tried_on_a_cpu_where_the_release_can() -> None:
    space = SPACES["vllm on a CPU"]
    assert knob(space, WORKER).choices == ("1", "0")
    assert {"max_num_seqs": 16, WORKER: "0"} in space.seeds
    assert space.check({WORKER: "0", THREADS: "nobind"}) is not None
    assert "0.32 and later" in reason(on.vllm_space(CPU, version="0.31.0"), WORKER)
    assert "on a processor" in reason(SPACES["vllm on a GPU"], WORKER)


def test_what_is_a_variable_goes_into_the_environment_of_a_profile() -> None:
    default = Profile("default", "vllm", "some/model", environment={"HF_HOME": "/models"})
    about = Subject(default, (on.chat(),), Objective("throughput"), SPACES["vllm on a CPU"])
    found = about.profile({"max_num_seqs": 16, THREADS: "nobind"})
    assert found.options == {"max_num_seqs": 16}
    assert found.environment == {"HF_HOME": "/models", THREADS: "nobind"}


def test_parallel_sizes_divide_the_heads_and_fit_the_gpus() -> None:
    space = SPACES["vllm on four GPUs"]
    assert knob(space, "tensor_parallel_size").choices == (1, 2, 4)
    assert "dense" in reason(space, "data_parallel_size")
    both = {"tensor_parallel_size": 4, "pipeline_parallel_size": 2}
    assert space.check(both) == "8 GPUs are asked for and there are 4"


@pytest.mark.parametrize("card", [(), (on.gpu(),)], ids=["CPU", "GPU"])
def test_no_rule_of_thumb_makes_a_request_wait(card: tuple[Gpu, ...]) -> None:
    space = on.vllm_space(on.machine(*card), on.chat(10))
    assert all(int(seed.get("max_num_seqs", 128)) >= 10 for seed in space.seeds)


def test_lossy_choices_need_permission() -> None:
    assert "--allow-lossy" in reason(SPACES["vllm on a GPU"], "kv_cache_dtype")
    assert "--allow-lossy" in reason(SPACES["llamacpp on a CPU"], "cache_type_k")
    space = on.vllm_space(ONE_GPU, shape=on.QWEN_8B, allow_lossy=True)
    assert knob(space, "kv_cache_dtype").choices == ("auto", "fp8")
    space = on.llamacpp_space(CPU, allow_lossy=True)
    assert knob(space, "cache_type_v").choices == ("f16", "q8_0", "q4_0")
    assert space.check({"cache_type_v": "q8_0", "flash_attn": "off"}) is not None


@pytest.mark.parametrize(
    ("stored", "features", "allow_lossy", "choices"),
    [
        ("F16", {"avx2"}, False, ("auto", "float32")),
        ("F16", {"avx512_bf16"}, False, ("auto", "float32")),
        ("F16", {"avx512_bf16"}, True, ("auto", "float32", "bfloat16")),
        ("F16", {"avx512_fp16", "avx512_bf16"}, True, None),
        ("BF16", {"avx2"}, True, ("auto", "float32")),
        ("BF16", {"avx512_bf16"}, True, None),
        ("GPTQ", {"avx2"}, True, None),
    ],
)
def test_another_type_is_tried_where_the_processor_cannot_compute_with_the_weights_own(
    stored: str, features: set[str], allow_lossy: bool, choices: tuple[str, ...] | None
) -> None:
    cpu = replace(CPU.cpu, features=frozenset(features))
    shape = replace(on.TOY, quantization=stored)
    space = on.vllm_space(replace(CPU, cpu=cpu), shape=shape, allow_lossy=allow_lossy)
    if choices is None:
        assert len(reason(space, "dtype").split()) >= 3
        assert "dtype" not in names(space)
        return
    assert knob(space, "dtype").choices == choices
    assert space.seeds[1]["dtype"] == "float32"
    assert lossy(space.knobs, {"dtype": "float32"}) == {}
    rounded = {"dtype": "bfloat16"} if "bfloat16" in choices else {}
    assert rounded.items() <= space.seeds[2].items()
    assert lossy(space.knobs, rounded) == rounded


def test_prefix_caching_stays_on_for_a_load_that_shares_prefixes() -> None:
    assert "again" in reason(on.vllm_space(CPU, on.sharing(512)), "enable_prefix_caching")
    assert knob(on.vllm_space(CPU), "enable_prefix_caching").choices == (True, False)


def test_kv_room_is_varied_only_where_the_load_needs_more() -> None:
    assert "more buys no speed" in reason(SPACES["vllm on a CPU"], "kv_cache_memory_bytes")
    assert knob(SPACES["vllm on a CPU with little KV"], "kv_cache_memory_bytes").low == 2**24


def test_the_context_of_llamacpp_grows_with_its_slots() -> None:
    space = SPACES["llamacpp on a CPU"]
    for slots in map(int, knob(space, "n_parallel").choices[1:]):
        shared = space.launch({"n_parallel": slots, "kv_unified": True})
        split = space.launch({"n_parallel": slots, "kv_unified": False})
        assert (shared["n_ctx"], split["n_ctx"]) == (slots * 4096, slots * 8192)
    assert space.check({"n_parallel": 16, "n_ctx": 1024}) == (
        "16 slots share 1024 tokens of context: 64 each, and the load's longest request has 96"
    )


def test_slots_that_memory_cannot_hold_are_not_tried() -> None:
    space = on.llamacpp_space(on.machine(gib=24), on.chat(64), shape=on.QWEN_8B)
    assert knob(space, "n_parallel").high == 4
    assert "memory holds the context of 4" in knob(space, "n_parallel").why
    assert "GiB are free" in str(space.check({"n_parallel": 64}))


def test_a_larger_context_of_the_default_is_not_taken_away() -> None:
    space = on.llamacpp_space(CPU, n_parallel=4, kv_unified=True, n_ctx=32768, threads=4)
    assert space.launch({"n_parallel": 2}) == {"n_parallel": 2}
    assert space.launch({"n_parallel": 16}) == {"n_parallel": 16, "n_ctx": 65536}
    assert space.launch({"kv_unified": False}) == {"kv_unified": False}


def test_threads_for_prompts_do_not_follow_those_for_answers_unsaid() -> None:
    space = on.llamacpp_space(CPU, on.chat(1), threads=4)
    assert space.launch({"threads": 2}) == {"threads": 2, "threads_batch": 4}


def test_threads_for_one_token_matter_only_to_a_load_that_is_alone_at_times() -> None:
    # Measured: eight streams took the processor time of `threads_batch`, whatever `threads` was.
    assert "never so small" in reason(on.llamacpp_space(CPU, on.chat(8)), "threads")
    assert "threads" in names(on.llamacpp_space(CPU, on.chat(8), on.chat(1)))
    assert "threads_batch" in names(on.llamacpp_space(CPU, on.chat(8)))


def test_guessing_tokens_is_judged_on_real_text_only() -> None:
    made_up, real = on.chat(4), replace(on.chat(4), dataset="questions.jsonl")
    for build_space in (on.vllm_space, on.llamacpp_space):
        option = "spec_method" if build_space is on.vllm_space else "spec_type"
        assert "luck" in reason(build_space(CPU, made_up), option)
        assert option in names(build_space(CPU, real))
    space = on.vllm_space(CPU, real)
    assert space.launch({"spec_method": "ngram"}) == {"spec_method": "ngram", "spec_tokens": 3}
    assert space.launch({"spec_tokens": 3}) == {}
    assert "guesses nothing" in str(space.check({"spec_tokens": 5}))


def test_what_the_memory_model_refuses_is_not_offered() -> None:
    space = on.vllm_space(CPU, max_model_len=8192, kv_cache_memory_bytes=2**30)
    assert space.check({"kv_cache_memory_bytes": 2**40}) is not None
    assert "GiB are free" in str(space.check({"kv_cache_memory_bytes": 2**40}))


def test_sizes_may_be_written_as_vllm_writes_them() -> None:
    space = on.vllm_space(CPU, kv_cache_memory_bytes="256M", max_model_len="auto")
    assert "0.25 GiB hold all 16 requests" in reason(space, "kv_cache_memory_bytes")
    assert "paged" in reason(space, "max_model_len")


def test_a_micro_batch_is_no_larger_than_a_batch() -> None:
    space = on.llamacpp_space(ONE_GPU, on.chat(16, 500), shape=on.QWEN_8B)
    assert space.check({"n_ubatch": 2048, "n_batch": 512}) is not None
    assert space.check({"n_ubatch": 512, "n_batch": 512}) is None


def test_eight_trials_of_llamacpp_on_two_cores_see_what_matters() -> None:
    space = SPACES["llamacpp on a CPU"]
    seen = {name for seed in space.seeds for name in seed}
    assert {"n_parallel", "threads_batch"} <= seen
    assert space.size <= 1000


def test_an_engine_without_knobs_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot be tuned"):
        build(
            on.model(),
            CPU,
            engine="attached",
            version="",
            accepts=frozenset(),
            default=Profile("d", "attached", "m"),
            load=(),
        )
