"""llama.cpp's options: their names in a profile, as flags of llama-server, as wheel fields."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vllama.errors import EngineFailed
from vllama.profile import Scalar

_TRUTHS = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}
_FLASH = {
    "on": "LLAMA_FLASH_ATTN_TYPE_ENABLED",
    "off": "LLAMA_FLASH_ATTN_TYPE_DISABLED",
    "auto": "LLAMA_FLASH_ATTN_TYPE_AUTO",
}
_KV_TYPES = {
    t: f"GGML_TYPE_{t.upper()}"
    for t in ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
}
_SPLITS = {t: f"LLAMA_SPLIT_MODE_{t.upper()}" for t in ("none", "layer", "row", "tensor")}
_POOLINGS = {t: f"LLAMA_POOLING_TYPE_{t.upper()}" for t in ("none", "mean", "cls", "last", "rank")}
_SPECULATIONS = {
    t: f"COMMON_SPECULATIVE_TYPE_{t.replace('-', '_').upper()}"
    for t in (
        "none", "draft-simple", "draft-eagle3", "draft-mtp", "draft-dflash", "draft-dspark",
        "ngram-simple", "ngram-map-k", "ngram-map-k4v", "ngram-mod", "ngram-cache",
    )
}  # fmt: skip
_NUMA = {t: f"GGML_NUMA_STRATEGY_{t.upper()}" for t in ("distribute", "isolate", "numactl")}
_LOADS = {
    t: f"LLAMA_LOAD_MODE_{t.upper().replace('+', '_')}"
    for t in ("auto", "none", "mmap", "mlock", "mmap+mlock")
} | {"dio": "LLAMA_LOAD_MODE_DIRECT_IO"}
_REASONING = {
    t: f"COMMON_REASONING_FORMAT_{t.upper().replace('-', '_')}"
    for t in ("none", "auto", "deepseek", "deepseek-legacy")
}


@dataclass(frozen=True, slots=True)
class Option:
    """One option: `flag` of the program, `path` into the wheel's parameters (empty: not there).

    `words` are the values that are words, with their names in the wheel. `is_switch` marks
    a flag without a value; `negates` one that has a `--no-` form. `older` are its former names.
    """

    flag: str
    path: str = ""
    words: Mapping[str, str] = field(default_factory=dict)
    is_switch: bool = False
    negates: bool = True
    older: tuple[str, ...] = ()


def _switch(flag: str, path: str = "", *, negates: bool = True) -> Option:
    return Option(flag, path, is_switch=True, negates=negates)


OPTIONS: Mapping[str, Option] = {
    "n_parallel": Option("--parallel", "n_parallel"),
    "n_ctx": Option("--ctx-size", "n_ctx"),
    "n_batch": Option("--batch-size", "n_batch"),
    "n_ubatch": Option("--ubatch-size", "n_ubatch"),
    "threads": Option("--threads", "cpuparams.n_threads"),
    "threads_batch": Option("--threads-batch", "cpuparams_batch.n_threads"),
    "threads_http": Option("--threads-http", "n_threads_http"),
    "poll": Option("--poll", "cpuparams.poll"),
    "numa": Option("--numa", "numa", _NUMA),
    "flash_attn": Option("--flash-attn", "flash_attn_type", _FLASH),
    "cache_type_k": Option("--cache-type-k", "cache_type_k", _KV_TYPES),
    "cache_type_v": Option("--cache-type-v", "cache_type_v", _KV_TYPES),
    "kv_unified": _switch("--kv-unified", "kv_unified"),
    "kv_offload": _switch("--kv-offload"),
    "cont_batching": _switch("--cont-batching", "cont_batching"),
    "context_shift": _switch("--context-shift", "ctx_shift"),
    "swa_full": _switch("--swa-full", "swa_full", negates=False),
    "cache_prompt": _switch("--cache-prompt", "cache_prompt"),
    "cache_reuse": Option("--cache-reuse", "n_cache_reuse"),
    "cache_ram": Option("--cache-ram", "cache_ram_mib"),
    "slot_prompt_similarity": Option("--slot-prompt-similarity", "slot_prompt_similarity"),
    "n_gpu_layers": Option("--n-gpu-layers", "n_gpu_layers"),
    "split_mode": Option("--split-mode", "split_mode", _SPLITS),
    "tensor_split": Option("--tensor-split", "tensor_split"),
    "main_gpu": Option("--main-gpu", "main_gpu"),
    "override_tensor": Option("--override-tensor", "tensor_buft_overrides"),
    "n_cpu_moe": Option("--n-cpu-moe"),
    "fit": Option("--fit", "fit_params", {"on": "", "off": ""}),
    "load_mode": Option("--load-mode", "load_mode", _LOADS),
    "mlock": _switch("--mlock", negates=False),
    "warmup": _switch("--warmup", "warmup"),
    "embeddings": _switch("--embeddings", "embedding", negates=False),
    "pooling": Option("--pooling", "pooling_type", _POOLINGS),
    "rope_freq_base": Option("--rope-freq-base", "rope_freq_base"),
    "rope_freq_scale": Option("--rope-freq-scale", "rope_freq_scale"),
    "jinja": _switch("--jinja", "use_jinja"),
    "chat_template": Option("--chat-template", "chat_template"),
    "reasoning_format": Option("--reasoning-format", "reasoning_format", _REASONING),
    "reasoning_budget": Option("--reasoning-budget", "sampling.reasoning_budget_tokens"),
    "mmproj": Option("--mmproj", "mmproj.path"),
    "lora": Option("--lora", "lora_adapters"),
    "model_draft": Option("--model-draft", "speculative.draft.mparams.path"),
    "spec_type": Option("--spec-type", "speculative.types", _SPECULATIONS),
    "spec_draft_n_max": Option(
        "--spec-draft-n-max", "speculative.draft.n_max", older=("--draft-max",)
    ),
    "spec_draft_n_min": Option(
        "--spec-draft-n-min", "speculative.draft.n_min", older=("--draft-min",)
    ),
    "spec_draft_p_min": Option(
        "--spec-draft-p-min", "speculative.draft.p_min", older=("--draft-p-min",)
    ),
    "verbosity": Option("--verbosity", "verbosity"),
}


def check(options: Mapping[str, Scalar], accepted: frozenset[str]) -> None:
    """See whether each option is one of `accepted` and its value makes sense.

    Raises:
        EngineFailed: of kind `bad_option`, before anything is launched.
    """
    for name, value in options.items():
        if name not in accepted or name not in OPTIONS:
            raise EngineFailed(
                f"this llama.cpp has no option '{name}'",
                "Take it out of the profile, or install a llama.cpp that has it.",
                kind="bad_option",
                phase="parse",
            )
        words = OPTIONS[name].words
        if words and str(value).lower() not in words:
            raise EngineFailed(
                f"'{value}' is no value of llama.cpp's option '{name}'",
                f"There are: {', '.join(words)}.",
                kind="bad_option",
                phase="parse",
            )


def flags(options: Mapping[str, Scalar]) -> list[str]:
    """The options as llama-server's command line."""
    return [word for name, value in options.items() for word in _words(OPTIONS[name], value)]


def _words(option: Option, value: Scalar) -> Iterator[str]:
    if not option.is_switch:
        yield from (option.flag, str(value))
    elif is_true(value):
        yield option.flag
    elif option.negates:
        yield option.flag.replace("--", "--no-", 1)


def fields(options: Mapping[str, Scalar]) -> dict[str, Any]:
    """The options as fields of the wheel's parameters, by path."""
    return {OPTIONS[name].path: _field(name, value) for name, value in options.items()}


def _field(name: str, value: Scalar) -> Any:
    option = OPTIONS[name]
    if option.is_switch or name == "fit":
        return is_true(value)
    word = option.words.get(str(value).lower(), "")
    if name == "spec_type":
        return [word]
    if name == "tensor_split":
        return [float(part) for part in str(value).split(",")]
    return word or value


def is_true(value: Scalar) -> bool:
    """What a switch's value means, also when a file wrote it as a word."""
    return _TRUTHS.get(str(value).lower(), bool(value))
