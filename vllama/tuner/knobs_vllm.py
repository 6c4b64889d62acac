"""What vLLM has to vary, by what this version, machine, model and load allow."""

from collections.abc import Sequence

from vllama.machine import GIB
from vllama.profile import Scalar
from vllama.tuner.knob import (
    Catalogue,
    Ground,
    Knob,
    Options,
    Rule,
    RuledOut,
    always,
    count,
    ladder,
)
from vllama.tuner.knobs_vllm_cpu import MAKERS as ON_CPU
from vllama.tuner.knobs_vllm_cpu import THREADS, WORKER, binds_nothing
from vllama.tuner.knobs_vllm_gpu import ON_GPU
from vllama.tuner.knobs_vllm_spec import DRAFTING, complete
from vllama.tuner.knobs_vllm_spec import MAKERS as SPECULATION

_TOKENS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_BLOCK = 128
# What is in the key of vLLM's cache of compiled code (since 0.29 the limits of the scheduler, too).
_COMPILED = frozenset({
    "max_num_seqs", "max_num_batched_tokens", "max_model_len", "dtype", "kv_cache_dtype",
    "optimization_level", "performance_mode", "max_cudagraph_capture_size", "attention_backend",
    "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size",
    "enable_expert_parallel", "spec_method", "spec_tokens",
})  # fmt: skip
# What multiplies numbers of 16 bits, by how the weights are stored. Without it vLLM's half
# precision was seen at a third of its single precision's speed.
_COMPUTES = {
    "BF16": frozenset({"avx512_bf16", "amx_bf16", "bf16"}),
    "F16": frozenset({"avx512_fp16", "amx_fp16", "asimdhp"}),
}
_LEFT_ALONE = {
    "enable_chunked_prefill": "on by default; vLLM warns that off may crash or give wrong output",
    "block_size": "the attention backend chooses it, and may refuse another",
    "scheduling_policy": "priority needs requests that carry one",
    "max_num_active_seqs": "max_num_seqs covers it; it serves to try limits on a live server",
}


def batch_defaults(ground: Ground) -> tuple[int, int]:
    """max_num_batched_tokens and max_num_seqs that vLLM takes when neither is given."""
    if not ground.on_gpu:
        return 2048, 128
    first = ground.machine.gpus[0]
    if first.memory_bytes >= 160 * GIB and ground.is_at_least("0.28"):
        return 16384, 1024
    if first.memory_bytes >= 70 * GIB and "a100" not in first.name.lower():
        return 8192, 1024
    return 2048, 256


def _sequences(ground: Ground) -> Knob:
    busy = ground.concurrency
    choices = ladder(max(1, busy // 8), busy, halves=ground.on_gpu)
    return Knob(
        "max_num_seqs", "int", choices, batch_defaults(ground)[1],
        f"requests decoded together; the load has up to {busy} in flight", log=True,
    )  # fmt: skip


def _batched_tokens(ground: Ground) -> Knob | RuledOut:
    pending = ground.concurrency * ground.longest_prompt_tokens
    top = next((t for t in _TOKENS if t >= pending), _TOKENS[-1])
    low = 512 if ground.on_gpu else 256
    choices = tuple(t for t in _TOKENS if low <= t <= top)
    if len(choices) < 2:
        return RuledOut(
            "max_num_batched_tokens",
            f"all prompts in flight are {pending} tokens: every budget holds them",
        )
    return Knob(
        "max_num_batched_tokens", "int", choices, batch_defaults(ground)[0],
        "tokens a step may take: more reads prompts faster, fewer keeps answers flowing", log=True,
    )  # fmt: skip


def _prefix_caching(ground: Ground) -> Knob | RuledOut:
    if ground.shares_prefixes:
        return RuledOut(
            "enable_prefix_caching",
            "the load shares prefixes: without the cache each would be computed again",
        )
    return Knob(
        "enable_prefix_caching", "categorical", (True, False), True,
        "no workload shares a prefix: the bookkeeping could be saved",
    )  # fmt: skip


def _long_prefill(ground: Ground) -> Knob | RuledOut:
    longest = ground.longest_prompt_tokens
    if longest < 1024 or ground.concurrency < 4:
        return RuledOut(
            "long_prefill_token_threshold",
            f"prompts of at most {longest} tokens hold nobody up for long",
        )
    steps = tuple(t for t in (512, 2048) if t < longest)
    return Knob(
        "long_prefill_token_threshold", "int", (0, *steps), 0,
        "tokens of one long prompt that a step may take, so that others go on",
    )  # fmt: skip


def _prefill_interval(ground: Ground) -> Knob | RuledOut:
    if ground.concurrency < 8 or not ground.is_at_least("0.33" if not ground.on_gpu else "0.24"):
        return RuledOut(
            "prefill_schedule_interval", "few requests in flight, or not for this set-up"
        )
    return Knob(
        "prefill_schedule_interval", "int", (1, 4), 1,
        "steps of pure decoding between prompts: smoother answers, later first tokens",
    )  # fmt: skip


def _context(ground: Ground) -> Knob | RuledOut:
    trained = ground.model.shape.context_length
    given = count(ground.default, "max_model_len", trained)
    one = given * ground.model.shape.kv_bytes_per_token
    room = _kv_room(ground)
    if one <= room or not trained:
        return RuledOut(
            "max_model_len",
            "the cache is paged: the limit decides what fits, not how fast, and this one fits",
        )
    fits = room // max(1, ground.model.shape.kv_bytes_per_token)
    lengths = tuple(t for t in (4096, 8192, 16384, 32768, 65536) if t < min(fits, trained))
    wanted = tuple(t for t in lengths if t >= ground.longest_tokens)[-2:]
    return Knob(
        "max_model_len", "int", wanted, given,
        f"one request of {given} tokens needs {one / GIB:.1f} GiB of KV, more than there is",
        log=True,
    )  # fmt: skip


def _kv_room(ground: Ground) -> int:
    """Bytes for keys and values that the default leaves, roughly; `fit` knows better."""
    given = count(ground.default, "kv_cache_memory_bytes", 0)
    if given:
        return given
    weights = ground.model.shape.weight_bytes
    if ground.on_gpu:
        return int(0.85 * sum(g.memory_bytes for g in ground.machine.gpus)) - weights
    return int(0.6 * ground.machine.available_bytes) - weights


def _load_bytes(ground: Ground) -> int:
    blocks = -(-ground.longest_tokens // _BLOCK) + 1
    return ground.concurrency * blocks * _BLOCK * ground.model.shape.kv_bytes_per_token


def _kv_bytes(ground: Ground) -> Knob | RuledOut:
    if ground.on_gpu:
        return RuledOut("kv_cache_memory_bytes", "gpu_memory_utilization sets it on a GPU")
    given = count(ground.default, "kv_cache_memory_bytes", 0)
    needed = _load_bytes(ground)
    if given >= needed or not given:
        return RuledOut(
            "kv_cache_memory_bytes",
            f"{given / GIB:.2f} GiB hold all {ground.concurrency} requests: more buys no speed",
        )
    room = int(0.6 * (ground.machine.available_bytes - ground.model.shape.weight_bytes))
    larger = tuple(b for b in (2 * given, 4 * given, needed) if given < b <= room)
    return Knob(
        "kv_cache_memory_bytes", "int", tuple(sorted({given, *larger})), given,
        f"the load needs {needed / GIB:.2f} GiB; with less, requests wait or are computed twice",
        log=True,
    )  # fmt: skip


def _dtype(ground: Ground) -> Knob | RuledOut:
    stored, features = ground.model.shape.quantization, ground.machine.cpu.features
    if ground.on_gpu or features & _COMPUTES.get(stored, frozenset()):
        return RuledOut("dtype", "the weights' own: another is a choice of quality, not of speed")
    if stored not in _COMPUTES:
        return RuledOut("dtype", f"the weights are {stored}")
    twice = 2 * ground.model.shape.weight_bytes + 2 * _load_bytes(ground)
    fits = twice <= 0.6 * ground.machine.available_bytes
    shorter = ground.allow_lossy and stored == "F16" and features & _COMPUTES["BF16"]
    if not (fits or shorter):
        return RuledOut("dtype", "float32 would be exact and may be faster here, but does not fit")
    exact: tuple[Scalar, ...] = ("float32",) if fits else ()
    return Knob(
        "dtype", "categorical", ("auto", *exact, *(("bfloat16",) if shorter else ())), "auto",
        f"this CPU has no arithmetic for {stored}: float32 loses nothing and may be faster"
        + (", bfloat16 rounds the weights and has arithmetic here" if shorter else ""),
        lossy=bool(shorter), exact=exact,
    )  # fmt: skip


def _optimization(ground: Ground) -> Knob:
    if ground.on_gpu:
        return Knob(
            "optimization_level", "int", (1, 2), 2,
            "1 captures graphs only piecewise: less memory and a faster start",
        )  # fmt: skip
    return Knob(
        "optimization_level", "int", (0, 2), 2,
        "0 does not compile: a start costs far less, and large batches are as fast",
    )  # fmt: skip


def _performance_mode(ground: Ground) -> Knob | RuledOut:
    if not ground.on_gpu:
        return RuledOut(
            "performance_mode", "here it only doubles limits that are knobs of their own"
        )
    return Knob(
        "performance_mode", "categorical", ("balanced", "interactivity", "throughput"), "balanced",
        "vLLM's own presets: graphs for every small batch, or doubled limits",
    )  # fmt: skip


def _stream_interval(ground: Ground) -> Knob | RuledOut:
    if ground.concurrency < 64 or not any(w.stream for w in ground.load):
        return RuledOut("stream_interval", "too few streams for packets to cost anything")
    return Knob(
        "stream_interval", "int", (1, 4, 8), 1,
        "tokens a packet: less work for the host, a less smooth answer", log=True,
    )  # fmt: skip


def _watermark(ground: Ground) -> Knob | RuledOut:
    if _load_bytes(ground) <= _kv_room(ground):
        return RuledOut("watermark", "the whole load fits in the cache: nothing is preempted")
    return Knob(
        "watermark", "float", (0.0, 0.01, 0.05), 0.0,
        "share of the cache kept free, so that fewer requests are thrown out and done again",
    )  # fmt: skip


def _servers(ground: Ground) -> Knob | RuledOut:
    if ground.machine.cpu.cores < 8 or ground.concurrency < 64:
        return RuledOut(
            "api_server_count", "one process reads and writes this load, or there are few cores"
        )
    return Knob(
        "api_server_count", "int", (1, 2, 4), 1,
        "processes that tokenise and stream, where one is not enough", log=True,
    )  # fmt: skip


def _rules(ground: Ground) -> Sequence[Rule]:
    tokens, sequences = batch_defaults(ground)
    trained = ground.model.shape.context_length

    def budget(options: Options) -> str | None:
        most = count(options, "max_num_batched_tokens", tokens)
        together = count(options, "max_num_seqs", sequences)
        if together <= most:
            return None
        return f"max_num_seqs {together} is more than max_num_batched_tokens {most}"

    def threshold(options: Options) -> str | None:
        limit = count(options, "long_prefill_token_threshold", 0)
        length = count(options, "max_model_len", trained)
        if limit <= length or not length:
            return None
        return f"long_prefill_token_threshold {limit} is more than max_model_len {length}"

    def length(options: Options) -> str | None:
        most = count(options, "max_model_len", trained)
        if not most or most >= ground.longest_tokens:
            return None
        return f"max_model_len {most} is less than the load's {ground.longest_tokens} tokens"

    def guesses(options: Options) -> str | None:
        told = count(options, "spec_tokens", 3) != 3
        if told and options.get("spec_method", "none") == "none":
            return "spec_tokens without spec_method guesses nothing"
        return None

    return budget, threshold, length, guesses, binds_nothing, *ON_GPU.rules(ground)


def _seeds(ground: Ground) -> Sequence[Options]:
    # A place for each request, which is not the nearest choice: with 8 for 10, two always wait.
    thumb: dict[str, Scalar] = {"max_num_seqs": _sequences(ground).choices[-1]}
    drafting: tuple[Options, ...] = ({"spec_method": DRAFTING},) if ground.draft else ()
    if not ground.on_gpu:
        return (
            *drafting,
            # First what may be worth a factor each; what is no knob here is left out.
            {**thumb, WORKER: "0", "dtype": "float32"},
            {**thumb, WORKER: "0", "dtype": "bfloat16"},
            {**thumb, WORKER: "0"},
            {**thumb, "dtype": "float32"},
            thumb,
            {**thumb, "optimization_level": 0},
            {**thumb, "max_num_batched_tokens": 512},
            {**thumb, THREADS: "nobind"},
        )
    size = ground.model.shape.weight_bytes
    # Prompts of small models are cheap: a large budget hides in the step.
    budget = 16384 if size < 8 * GIB else 8192 if size < 40 * GIB else 4096
    return (
        *drafting,
        {"performance_mode": "throughput"},
        {"performance_mode": "interactivity"},
        {**thumb, "max_num_batched_tokens": budget},
        {**thumb, "max_num_batched_tokens": 2048},
        *ON_GPU.seeds(ground),
    )


CATALOGUE = Catalogue(
    makers={
        "max_num_seqs": _sequences,
        "max_num_batched_tokens": _batched_tokens,
        "enable_prefix_caching": _prefix_caching,
        "long_prefill_token_threshold": _long_prefill,
        "prefill_schedule_interval": _prefill_interval,
        "max_model_len": _context,
        "kv_cache_memory_bytes": _kv_bytes,
        "dtype": _dtype,
        "optimization_level": _optimization,
        "performance_mode": _performance_mode,
        "stream_interval": _stream_interval,
        "watermark": _watermark,
        **SPECULATION,
        "api_server_count": _servers,
        **ON_CPU,
        **ON_GPU.makers,
        **{name: always(RuledOut(name, reason)) for name, reason in _LEFT_ALONE.items()},
    },
    rules=_rules,
    seeds=_seeds,
    complete=complete,
    compiled=_COMPILED,
)
