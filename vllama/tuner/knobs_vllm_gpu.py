"""What vLLM has to vary on accelerators only: memory, graphs, kernels, parallelism."""

from collections.abc import Sequence

from vllama.tuner.knob import Catalogue, Ground, Knob, Maker, Options, Rule, RuledOut, count


def _gpu_only(option: str, maker: Maker) -> Maker:
    def make(ground: Ground) -> Knob | RuledOut:
        return maker(ground) if ground.on_gpu else RuledOut(option, "there is no GPU")

    return make


def _utilization(ground: Ground) -> Knob | RuledOut:
    default = 0.92 if ground.is_at_least("0.20") else 0.9
    return Knob(
        "gpu_memory_utilization", "float", (0.85, 0.9, 0.92, 0.95), default,
        "room for keys and values; no gain once nothing is preempted",
    )  # fmt: skip


def _async(ground: Ground) -> Knob | RuledOut:
    if ground.is_at_least("0.14"):
        return RuledOut("async_scheduling", "on by default since vLLM 0.14, and never slower")
    return Knob(
        "async_scheduling", "categorical", (False, True), False,
        "prepares the next step while the GPU works",
    )  # fmt: skip


def _graphs(ground: Ground) -> Knob | RuledOut:
    if ground.concurrency <= 256:
        return RuledOut("max_cudagraph_capture_size", "graphs of up to 512 are captured by default")
    return Knob(
        "max_cudagraph_capture_size", "int", (256, 512, 1024), 512,
        "batches above it run without a graph; more graphs take memory", log=True,
    )  # fmt: skip


def _attention(ground: Ground) -> Knob | RuledOut:
    first = ground.machine.gpus[0]
    if first.vendor != "nvidia":
        return RuledOut("attention_backend", f"vLLM's choice is kept on {first.vendor}")
    if first.compute_capability < (8, 0):
        return RuledOut("attention_backend", "this GPU has one backend only")
    return Knob(
        "attention_backend", "categorical", ("auto", "FLASH_ATTN", "FLASHINFER"), "auto",
        "which kernels compute attention; the best differs by GPU and load",
    )  # fmt: skip


def _kv_type(ground: Ground) -> Knob | RuledOut:
    if not ground.allow_lossy:
        return RuledOut("kv_cache_dtype", "fp8 changes answers: only with --allow-lossy")
    if ground.on_gpu and ground.machine.gpus[0].compute_capability < (8, 9):
        return RuledOut("kv_cache_dtype", "this GPU does not compute in fp8")
    return Knob(
        "kv_cache_dtype", "categorical", ("auto", "fp8"), "auto",
        "twice the tokens in the cache, and half the bytes to read for long contexts", lossy=True,
    )  # fmt: skip


def _divisors(count: int) -> tuple[int, ...]:
    return tuple(d for d in (1, 2, 4, 8, 16) if d <= count)


def _tensor(ground: Ground) -> Knob | RuledOut:
    gpus, heads = len(ground.machine.gpus), ground.model.shape.heads
    if gpus < 2:
        return RuledOut("tensor_parallel_size", "there is one GPU")
    choices = tuple(d for d in _divisors(gpus) if heads % d == 0)
    return Knob(
        "tensor_parallel_size", "int", choices, 1,
        "GPUs that share each layer: less memory and time a token, more talk between them",
        log=True,
    )  # fmt: skip


def _pipeline(ground: Ground) -> Knob | RuledOut:
    gpus = len(ground.machine.gpus)
    if gpus < 2:
        return RuledOut("pipeline_parallel_size", "there is one GPU")
    return Knob(
        "pipeline_parallel_size", "int", _divisors(gpus), 1,
        "GPUs that take layers in turn: little talk between them, no faster for one request",
        log=True,
    )  # fmt: skip


def _is_moe(ground: Ground) -> bool:
    return ground.model.shape.active_parameters < ground.model.shape.parameters


def _data(ground: Ground) -> Knob | RuledOut:
    gpus = len(ground.machine.gpus)
    if gpus < 2:
        return RuledOut("data_parallel_size", "there is one GPU")
    if not _is_moe(ground):
        return RuledOut("data_parallel_size", "a dense model does as well with replicas behind us")
    return Knob(
        "data_parallel_size", "int", _divisors(gpus), 1,
        "copies of attention that share the experts", log=True,
    )  # fmt: skip


def _experts(ground: Ground) -> Knob | RuledOut:
    if not _is_moe(ground) or len(ground.machine.gpus) < 2:
        return RuledOut("enable_expert_parallel", "needs a mixture of experts and several GPUs")
    return Knob(
        "enable_expert_parallel", "categorical", (False, True), False,
        "whole experts to each GPU instead of a slice of each",
    )  # fmt: skip


def _rules(ground: Ground) -> Sequence[Rule]:
    gpus = max(1, len(ground.machine.gpus))

    def devices(options: Options) -> str | None:
        sizes = [
            count(options, f"{kind}_parallel_size", 1) for kind in ("tensor", "pipeline", "data")
        ]
        needed = sizes[0] * sizes[1] * sizes[2]
        return f"{needed} GPUs are asked for and there are {gpus}" if needed > gpus else None

    def experts(options: Options) -> str | None:
        many = count(options, "tensor_parallel_size", 1) * count(options, "data_parallel_size", 1)
        if options.get("enable_expert_parallel") and many < 2:
            return "expert parallel needs tensor or data parallel"
        return None

    return devices, experts


_MAKERS: dict[str, Maker] = {
    "gpu_memory_utilization": _utilization,
    "async_scheduling": _async,
    "max_cudagraph_capture_size": _graphs,
    "attention_backend": _attention,
    "tensor_parallel_size": _tensor,
    "pipeline_parallel_size": _pipeline,
    "data_parallel_size": _data,
    "enable_expert_parallel": _experts,
}

ON_GPU = Catalogue(
    makers={
        **{name: _gpu_only(name, maker) for name, maker in _MAKERS.items()},
        "kv_cache_dtype": _kv_type,
    },
    rules=_rules,
    seeds=lambda _: (),
)
