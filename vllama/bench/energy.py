"""The energy that a load took, where the card counts it (NVML, from Volta on)."""

from collections.abc import Mapping, Sequence
from typing import Any

from vllama.bench.measurement import Run
from vllama.bench.memory import family

_MJ = 1000.0


def counted(pids: Sequence[int]) -> dict[str, float]:
    """Joules so far of each card on which these processes or their children compute, by UUID.

    Empty where there is no card, or none that counts.
    """
    if not pids:
        return {}
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {}
    try:
        return _of_cards(pynvml, {p.pid for p in family(pids)})
    except pynvml.NVMLError:
        return {}
    finally:
        pynvml.nvmlShutdown()


def _of_cards(nvml: Any, pids: set[int]) -> dict[str, float]:
    found = {}
    for index in range(nvml.nvmlDeviceGetCount()):
        card = nvml.nvmlDeviceGetHandleByIndex(index)
        if any(p.pid in pids for p in nvml.nvmlDeviceGetComputeRunningProcesses(card)):
            joules = nvml.nvmlDeviceGetTotalEnergyConsumption(card) / _MJ
            found[str(nvml.nvmlDeviceGetUUID(card))] = joules
    return found


def between(before: Mapping[str, float], after: Mapping[str, float], run: Run) -> dict[str, float]:
    """What the whole load took, ramp and drain included, and each output token of it."""
    joules = sum(after[card] - before[card] for card in after if card in before)
    if joules <= 0:
        return {}
    tokens = sum(s.output_tokens for s in run.samples if s.error is None)
    found = {"energy_j": joules}
    return found | ({"energy_j_per_output_token": joules / tokens} if tokens else {})
