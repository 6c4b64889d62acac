"""vLLM's default profile: what it cannot start without on a machine, and nothing else."""

from vllama.engines.vllm_installed import Installed
from vllama.machine import Gpu, Machine
from vllama.model import Model
from vllama.profile import Profile, Scalar

MIB = 1024**2
CONTEXT_ON_CPU = 8192
SEQUENCES_ON_CPU = 16
MEMORY_SHARE_ON_CPU = 4
# What vLLM takes unasked: 0.92 since 0.20, before that 0.9.
UTILISATION = 0.92
# Of a GPU's memory; the rest is for activations and the KV cache.
WEIGHT_SHARE = 0.8


def profile(
    model: Model, machine: Machine, installed: Installed, context_length: int = 0
) -> Profile:
    """The default; `context_length` is the user's wish, 0 for none."""
    if installed.is_cpu:
        options = _on_cpu(model, machine, context_length)
    else:
        options = _on_gpu(model, machine, installed, context_length)
    return Profile(
        name="default",
        engine="vllm",
        model=model.name,
        options=options,
        engine_version=installed.version,
        machine=machine.fingerprint,
    )


def _on_cpu(model: Model, machine: Machine, context_length: int) -> dict[str, Scalar]:
    """Unasked it wants nine tenths of all memory, and fails when that is not free.

    A power of two, so that it does not change with the last megabytes of the machine.
    """
    context = min(context_length or CONTEXT_ON_CPU, model.shape.context_length or CONTEXT_ON_CPU)
    wanted = SEQUENCES_ON_CPU * context * model.shape.kv_bytes_per_token
    allowed = machine.memory_bytes // MEMORY_SHARE_ON_CPU
    mib = max(1, min(wanted, allowed) // MIB)
    return {"max_model_len": context, "kv_cache_memory_bytes": f"{_power_of_two(mib)}M"}


def _on_gpu(
    model: Model, machine: Machine, installed: Installed, context_length: int
) -> dict[str, Scalar]:
    options: dict[str, Scalar] = {}
    if context_length:
        options["max_model_len"] = min(context_length, model.shape.context_length or context_length)
    elif installed.release >= (0, 14):
        # As long as the model allows, or as long as fits.
        options["max_model_len"] = "auto"
    if machine.gpus:
        shards = _shards(model, machine.gpus)
        if shards > 1:
            options["tensor_parallel_size"] = shards
        free = min(g.free_bytes / g.memory_bytes for g in machine.gpus[:shards])
        if free < UTILISATION + 0.02:
            options["gpu_memory_utilization"] = max(0.05, int((free - 0.02) * 20) / 20)
    return options


def _shards(model: Model, gpus: tuple[Gpu, ...]) -> int:
    """The fewest GPUs, by powers of two, whose memory holds the weights."""
    shards = 1
    room = min(g.memory_bytes for g in gpus) * WEIGHT_SHARE
    while (
        shards * 2 <= len(gpus)
        and model.shape.heads % (shards * 2) == 0
        and model.shape.weight_bytes / shards > room
    ):
        shards *= 2
    return shards


def _power_of_two(number: int) -> int:
    """The nearest below, or the number itself."""
    return 1 << (number.bit_length() - 1)
