"""Reading what llama.cpp says: the cause of a failure, and what a start taught."""

import re
from collections.abc import Sequence

from vllama.engines import process
from vllama.engines.engine import Fact
from vllama.errors import EngineFailed

_CAUSES: tuple[tuple[str, str, str, str], ...] = (
    (
        r"couldn't bind|address already in use",
        "port",
        "another program took llama.cpp's port",
        "Start it again.",
    ),
    (
        r"quantized V cache requires flash_attn|V cache quantization requires flash",
        "bad_option",
        "a quantized V cache needs flash attention",
        "Set flash_attn to on or auto, or cache_type_v to f16.",
    ),
    (
        r"cache type (\S+) with block size \d+ does not divide",
        "bad_option",
        "the KV cache type {0} does not suit this model's head size",
        "Take q8_0 or f16 for cache_type_k and cache_type_v.",
    ),
    (
        r"n_seq_max must be <= (\d+)",
        "bad_option",
        "llama.cpp takes at most {0} slots",
        "Lower n_parallel.",
    ),
    (
        r"invalid argument: (\S+)|unknown argument: (\S+)",
        "bad_option",
        "this llama-server does not know the flag {0}",
        "Take the option out of the profile, or install a newer llama.cpp.",
    ),
    (
        r"unknown model architecture: '([^']*)'",
        "bad_model",
        "this llama.cpp does not know the architecture '{0}'",
        "Install a newer llama.cpp, or use --engine vllm.",
    ),
    (
        r"tensor '([^']*)' data is not within the file bounds",
        "bad_model",
        "the GGUF file is cut short: it ends before the tensor '{0}'",
        "Fetch the model again: its download was not finished.",
    ),
    (
        r"invalid magic characters|bad magic",
        "bad_model",
        "the file is no GGUF file",
        "Fetch the model again, or give its .gguf file.",
    ),
    (
        r"out of memory|failed to allocate|insufficient memory|cudaMalloc failed|bad_alloc"
        r"|killed by SIGKILL",
        "out_of_memory",
        "llama.cpp ran out of memory",
        "Lower n_ctx or n_parallel, take a smaller quantization, or quantize the KV cache.",
    ),
    (
        r"killed by SIGILL|Illegal instruction",
        "crash",
        "this llama.cpp was built for another processor than this one",
        "Install a build for this machine, or name one in VLLAMA_LLAMA_SERVER.",
    ),
    (
        r"error while loading shared libraries: ([^:\s]+)|Library not loaded: (\S+)",
        "crash",
        "llama-server misses the library {0}",
        "Install it again from its package, or name another one in VLLAMA_LLAMA_SERVER.",
    ),
    (
        r"error loading model: (.+)",
        "bad_model",
        "llama.cpp cannot load the model: {0}",
        "Fetch the model again, or install a newer llama.cpp.",
    ),
)

_ERROR = re.compile(r"^\S+ E |\berror\b", re.IGNORECASE)


def explain(log: Sequence[str]) -> EngineFailed:
    """From the last words to a cause and a remedy."""
    text = "\n".join(log)
    phase = phase_of(log)
    for pattern, kind, message, remedy in _CAUSES:
        if found := re.search(pattern, text, re.IGNORECASE):
            groups = [g for g in found.groups() if g]
            return EngineFailed(message.format(*groups), remedy, kind=kind, phase=phase, log=log)
    return EngineFailed(
        f"llama.cpp ended: {_last_word(log)}", "Its log says more: --verbose.", phase=phase, log=log
    )


def phase_of(log: Sequence[str]) -> str:
    """How far it came: `parse`, `load` or `run`."""
    text = "\n".join(log)
    if "listening on" in text and "model loaded" in text:
        return "run"
    return "load" if "loading model" in text else "parse"


def facts(log: Sequence[str]) -> dict[str, Fact]:
    """What a start taught: slots, context per slot, KV bytes, where it says so."""
    text = "\n".join(log)
    found: dict[str, Fact] = {}
    for name, pattern in (
        ("slots", r"n_slots = (\d+)"),
        ("n_ctx_slot", r"n_ctx_slot = (\d+)"),
        ("threads", r"n_threads = (\d+)"),
    ):
        if match := re.search(pattern, text):
            found[name] = int(match[1])
    if match := re.search(r"kv_unified = '?(true|false)", text):
        found["kv_unified"] = int(match[1] == "true")
    mib = [float(m) for m in re.findall(r"KV buffer size =\s*([\d.]+) MiB", text)]
    if mib:
        found["kv_cache_bytes"] = int(sum(mib) * 1024 * 1024)
    return found


def _last_word(log: Sequence[str]) -> str:
    return process.last_words([line for line in log if re.search(_ERROR, line)] or log)
