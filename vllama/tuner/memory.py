"""Where memory goes: weights, keys and values, activations, graphs, and the engine itself."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from vllama.machine import GIB
from vllama.model import Shape
from vllama.profile import Scalar
from vllama.tuner.device import Device
from vllama.tuner.knob import Ground, count
from vllama.tuner.knobs_vllm import batch_defaults
from vllama.tuner.knobs_vllm_spec import DRAFTING

MIB = 1024**2
_BLOCK_CPU, _BLOCK_GPU = 128, 16
# Of a process that has imported torch and vLLM; with a CUDA context; for each peer.
_CPU_PROCESS = 0.665 * GIB
# What stays in the heap of weights that were read in 16 bits and kept in 32, as a share of the
# former: seen with 8 to 201 MB of them, whose tensors are small; large ones are given back whole.
_WIDENED, _WIDENED_MOST = 0.6, 256 * MIB
_UNWARMED = 0.1
_GPU_CONTEXT = 0.7 * GIB
_EACH_PEER = 0.3 * GIB
_GRAPH_BASE, _GRAPH_SIZE = 0.15 * GIB, 10 * MIB
_KV_TYPE_BYTES = {"f32": 4.0, "float32": 4.0, "fp8": 1.0, "fp8_e4m3": 1.0, "fp8_e5m2": 1.0,
                  "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32, "q4_1": 20 / 32,
                  "q4_0": 18 / 32, "iq4_nl": 18 / 32}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Correction:
    """What starts taught: bytes used beyond the model of memory, and the scale of its parts."""

    offset_bytes: float = 0.0
    activation_scale: float = 1.0
    graph_scale: float = 1.0
    weight_scale: float = 1.0


NONE = Correction()


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes on one device, and how far keys and values go in what is left.

    `kv_bytes` may be negative: it does not fit. `kv_tokens` is of all devices together, as
    vLLM counts it. `sequence_bytes` is what one sequence of the longest length needs.
    """

    total_bytes: int
    weight_bytes: int
    activation_bytes: int
    graph_bytes: int
    overhead_bytes: int
    kv_bytes: int
    kv_tokens: int
    context_tokens: int
    sequence_bytes: int

    @property
    def sequences(self) -> float:
        """How many sequences of the longest length the cache holds."""
        return self.kv_bytes / self.sequence_bytes if self.sequence_bytes else float("inf")


def budget(
    ground: Ground,
    device: Device,
    options: Mapping[str, Scalar],
    correction: Correction = NONE,
) -> Budget:
    """Where the memory of one device goes when the engine starts with these options."""
    if ground.engine == "llamacpp":
        return _llamacpp(ground, device, options, correction)
    return _vllm(ground, device, options, correction)


def kv_share(ground: Ground, options: Mapping[str, Scalar]) -> float:
    """Bytes of a number in the cache, as a share of the 16 bits that shapes count with."""
    if ground.engine == "llamacpp":
        types = [str(options.get(f"cache_type_{side}", "f16")) for side in "kv"]
        return sum(_KV_TYPE_BYTES.get(t, 2.0) for t in types) / 4
    kind = str(options.get("kv_cache_dtype", "auto"))
    if kind == "auto":
        kind = str(options.get("dtype", "auto"))
        if kind == "auto" and ground.model.shape.quantization == "F32":
            # vLLM serves 32-bit weights at 16.
            return 1.0
    return _KV_TYPE_BYTES.get(kind, 2.0) / 2


def weight_share(ground: Ground, options: Mapping[str, Scalar]) -> float:
    """Bytes of the weights in memory, as a share of those in the files."""
    kind, stored = str(options.get("dtype", "auto")), ground.model.shape.quantization
    if stored in {"F16", "BF16"}:
        return 2.0 if kind in {"float32", "float"} else 1.0
    return 0.5 if stored == "F32" and kind not in {"float32", "float"} else 1.0


def _widened(ground: Ground, options: Mapping[str, Scalar]) -> float:
    if weight_share(ground, options) <= 1:
        return 0.0
    return min(_WIDENED * ground.model.shape.weight_bytes, _WIDENED_MOST)


def context_tokens(ground: Ground, options: Mapping[str, Scalar]) -> int:
    """The longest sequence that the engine will take."""
    trained = ground.model.shape.context_length or 8192
    return count(options, "max_model_len", trained) or trained


def _vllm(
    ground: Ground, device: Device, options: Mapping[str, Scalar], correction: Correction
) -> Budget:
    shape = ground.model.shape
    tensor = count(options, "tensor_parallel_size", 1)
    shards = tensor * count(options, "pipeline_parallel_size", 1)
    weights = shape.weight_bytes * weight_share(ground, options) / shards
    drafter = _drafter(ground, options)
    if drafter is not None:
        weights += drafter.model.shape.weight_bytes * weight_share(drafter, options) / shards
    activation = _activation(ground, options, tensor) * correction.activation_scale
    if device.is_cpu and is_eager(options):
        # Without compiled code to warm up no step is run before the cache is sized.
        activation *= _UNWARMED
    graphs = _graphs(ground, device, options) * correction.graph_scale
    overhead = _GPU_CONTEXT + (_EACH_PEER if shards > 1 else 0)
    if device.is_cpu:
        overhead = _CPU_PROCESS + _widened(ground, options)
    # Before 0.20 graphs were captured after the cache was sized, in what nobody had claimed.
    counted = graphs if ground.is_at_least("0.20") else 0.0
    used = weights * correction.weight_scale + activation + counted + overhead
    total = _utilization(ground, options) * device.memory_bytes
    left = total - used - correction.offset_bytes
    explicit = count(options, "kv_cache_memory_bytes", 0)
    kv = explicit or left
    length = context_tokens(ground, options)
    one = _sequence_bytes(ground, device, options, length)
    if drafter is not None:
        one += _sequence_bytes(drafter, device, options, length)
    return Budget(
        total_bytes=round(total if not explicit else min(device.free_bytes, used + explicit)),
        weight_bytes=round(weights * correction.weight_scale),
        activation_bytes=round(activation),
        graph_bytes=round(graphs),
        overhead_bytes=round(overhead + correction.offset_bytes),
        kv_bytes=round(kv),
        kv_tokens=_tokens(shape, kv, one, length, _block(device)),
        context_tokens=length,
        sequence_bytes=one,
    )


def _drafter(ground: Ground, options: Mapping[str, Scalar]) -> Ground | None:
    """The same ground with the model that guesses ahead, where one does."""
    if ground.draft is None or options.get("spec_method") != DRAFTING:
        return None
    return replace(ground, model=ground.draft)


def is_eager(options: Mapping[str, Scalar]) -> bool:
    """Whether vLLM neither compiles nor captures graphs."""
    return options.get("enforce_eager") in (True, "true") or not count(
        options, "optimization_level", 2
    )


def _utilization(ground: Ground, options: Mapping[str, Scalar]) -> float:
    given = options.get("gpu_memory_utilization")
    return float(given) if given else 0.92 if ground.is_at_least("0.20") else 0.9


def _activation(ground: Ground, options: Mapping[str, Scalar], tensor: int) -> float:
    """The largest step's intermediate results: of its tokens, and of its sequences' logits."""
    shape = ground.model.shape
    tokens, sequences = batch_defaults(ground)
    tokens = count(options, "max_num_batched_tokens", tokens)
    sequences = min(count(options, "max_num_seqs", sequences), tokens)
    wide = 2 * shape.intermediate_size / tensor + 4 * shape.hidden_size
    if shape.experts:
        wide = 4 * shape.hidden_size + shape.experts_per_token * (
            shape.intermediate_size / shape.experts + shape.hidden_size
        )
    size = 2.0 * max(1.0, weight_share(ground, options))
    return tokens * wide * size + sequences * shape.vocabulary * 4 * 2.5


def _graphs(ground: Ground, device: Device, options: Mapping[str, Scalar]) -> float:
    if device.is_cpu or is_eager(options):
        return 0.0
    level = count(options, "optimization_level", 2)
    sequences = count(options, "max_num_seqs", batch_defaults(ground)[1])
    top = count(options, "max_cudagraph_capture_size", min(512, 2 * sequences))
    # Sizes are 1, 2, 4, then every 8 up to 256, then every 16.
    sizes = 3 + min(top, 256) / 8 + max(0, top - 256) / 16
    layers = ground.model.shape.layers / 32
    return (_GRAPH_BASE + sizes * _GRAPH_SIZE * layers) * (1.0 if level >= 2 else 0.6)


def _sequence_bytes(
    ground: Ground, device: Device, options: Mapping[str, Scalar], tokens: int
) -> int:
    """One sequence's part of the cache on one device, in whole blocks."""
    shape = ground.model.shape
    block = _block(device)
    whole = -(-tokens // block) * block
    tensor = min(count(options, "tensor_parallel_size", 1), max(1, shape.kv_heads))
    share = kv_share(ground, options) / count(options, "pipeline_parallel_size", 1)
    layer = shape.kv_bytes_per_token / shape.attention_layers
    budget_tokens = count(options, "max_num_batched_tokens", batch_defaults(ground)[0])
    # A window keeps what is in flight beside it, and begins within a block.
    kept = min(whole, -(-(shape.sliding_window - 1 + budget_tokens) // block) * block + block)
    full = shape.attention_layers - shape.sliding_layers
    tokens_kept = full * whole + shape.sliding_layers * kept
    return round(
        layer * tokens_kept * share / (1 if shape.is_latent else tensor)
        + shape.state_bytes / tensor
    )


def _tokens(shape: Shape, kv: float, one: int, length: int, block: int) -> int:
    if kv <= 0 or one <= 0:
        return 0
    if shape.sliding_layers or shape.state_layers:
        return int(kv / one * length)
    each = one / (-(-length // block))
    return int(kv // each) * block


def _block(device: Device) -> int:
    return _BLOCK_CPU if device.is_cpu else _BLOCK_GPU


def _llamacpp(
    ground: Ground, device: Device, options: Mapping[str, Scalar], correction: Correction
) -> Budget:
    shape = ground.model.shape
    total = device.free_bytes * device.count
    context = count(options, "n_ctx", 0) or shape.context_length or 4096
    slots = max(1, count(options, "n_parallel", 1))
    weights = shape.weight_bytes * correction.weight_scale
    micro = count(options, "n_ubatch", 512)
    rows = micro * (2 * shape.intermediate_size + 6 * shape.hidden_size) + slots * shape.vocabulary
    activation = rows * 4 * correction.activation_scale
    overhead = (0.1 if device.is_cpu else 0.4) * GIB + correction.offset_bytes
    one = shape.sequence_bytes(context) * kv_share(ground, options)
    return Budget(
        total_bytes=total,
        weight_bytes=round(weights),
        activation_bytes=round(activation),
        graph_bytes=0,
        overhead_bytes=round(overhead),
        kv_bytes=round(min(one, total - weights - activation - overhead)),
        kv_tokens=context,
        context_tokens=context if options.get("kv_unified") else context // slots,
        sequence_bytes=round(one),
    )
