"""How much memory an engine needs, and who must leave for it. Pure: it only says."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vllama.machine import Machine
from vllama.model import Model
from vllama.profile import Profile

# Beyond weights and cache: code, activations, graphs.
OVERHEAD_BYTES = 256 * 1024**2
OVERHEAD_OF_WEIGHTS = 0.10
# What a machine must keep for itself.
RESERVE = 0.08


@dataclass(frozen=True, slots=True)
class Stay:
    """One model that runs. `need_bytes` 0 is unknown; `pinned` stays for ever when it can.

    `settled` has run long enough to be sent away while busy; `leaving` has been already.
    `asleep` is one that keeps only a rest of its memory, and no place among those loaded.
    """

    key: str
    need_bytes: int
    users: int
    idle_since_s: float
    pinned: bool = False
    settled: bool = True
    leaving: bool = False
    asleep: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether there is room now, else who shall go first; neither: somebody must finish."""

    fits: bool
    evict: str | None = None
    evicts_sleeper: bool = False


def decide(
    need_bytes: int, stays: Sequence[Stay], *, budget_bytes: int, max_loaded: int
) -> Verdict:
    """Whether one more engine that needs `need_bytes` fits beside `stays`.

    The least recently used idle one goes first, then, when all are busy, the one that has
    been there longest without use; it is only told to take no more, and ends by itself. Who
    sleeps goes before the busy when that is enough, and when nobody else is left.
    """
    awake = [stay for stay in stays if not stay.asleep]
    asleep = [stay for stay in stays if stay.asleep]
    taken = sum(stay.need_bytes for stay in stays)
    by_count = len(awake) < max_loaded
    by_memory = not budget_bytes or not stays or taken + need_bytes <= budget_bytes
    if by_count and by_memory:
        return Verdict(True)
    if any(stay.leaving for stay in stays):
        return Verdict(False)
    idle = [stay for stay in awake if not stay.users]
    spared = taken - sum(stay.need_bytes for stay in asleep)
    enough = by_count and spared + need_bytes <= budget_bytes
    if asleep and not idle and (enough or not awake):
        return Verdict(False, min(asleep, key=lambda s: s.idle_since_s).key, evicts_sleeper=True)
    candidates = idle or [stay for stay in awake if stay.settled]
    if not candidates:
        return Verdict(False)
    return Verdict(False, min(candidates, key=lambda s: (s.pinned, s.idle_since_s)).key)


def need_bytes(model: Model, profile: Profile, machine: Machine) -> int:
    """What an engine with this profile will take of the memory that it runs in."""
    options = profile.options
    shape = model.shape
    share = options.get("gpu_memory_utilization")
    if machine.gpus and profile.engine == "vllm":
        share = share if isinstance(share, int | float) else 0.9
        return int(share * machine.gpus[0].memory_bytes)
    weights = shape.weight_bytes
    cache = options.get("kv_cache_memory_bytes")
    if not isinstance(cache, int):
        context = options.get("n_ctx") or options.get("max_model_len") or shape.context_length
        cache = int(context) * shape.kv_bytes_per_token if isinstance(context, int) else 0
    return int(weights * (1 + OVERHEAD_OF_WEIGHTS)) + cache + OVERHEAD_BYTES


def budget_bytes(machine: Machine) -> int:
    """The memory that all engines together may take."""
    if machine.gpus:
        return int(machine.gpus[0].memory_bytes * (1 - RESERVE / 2))
    return math.floor(machine.memory_bytes * (1 - RESERVE))
