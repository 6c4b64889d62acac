"""NVIDIA's accelerators, through NVML: each question may stay unanswered."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from vllama.hardware.processor import Memory
from vllama.machine import Gpu, Process

_T = TypeVar("_T")
_THROTTLES = {
    "nvmlClocksEventReasonSwPowerCap": "power",
    "nvmlClocksThrottleReasonHwSlowdown": "hardware",
    "nvmlClocksEventReasonSwThermalSlowdown": "heat",
    "nvmlClocksThrottleReasonHwThermalSlowdown": "heat",
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": "power brake",
    "nvmlClocksEventReasonApplicationsClocksSetting": "clocks set by an administrator",
}


def ask(memory: Memory) -> tuple[tuple[Gpu, ...], str, str]:
    """The cards or their MIG slices, the driver's version and that of its CUDA."""
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:
        return (), "", ""
    try:
        asking = _Asking(nvml, memory)
        cuda = int(asking.get(0, "nvmlSystemGetCudaDriverVersion_v2"))
        return (
            asking.gpus(),
            _word(asking.get("", "nvmlSystemGetDriverVersion")),
            f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else "",
        )
    finally:
        _quiet(lambda: nvml.nvmlShutdown(), None)


class _Asking:
    """One round of questions to an initialised NVML."""

    def __init__(self, nvml: Any, memory: Memory) -> None:
        self._nvml = nvml
        self._memory = memory

    def get(self, otherwise: _T, function: str, *args: Any) -> Any | _T:
        """The answer, or `otherwise`: functions differ by version, devices by what they tell."""
        asked = getattr(self._nvml, function, None)
        return _quiet(lambda: asked(*args), otherwise) if asked else otherwise

    def gpus(self) -> tuple[Gpu, ...]:
        count = int(self.get(0, "nvmlDeviceGetCount"))
        handles = [self.get(None, "nvmlDeviceGetHandleByIndex", i) for i in range(count)]
        known = [(i, h) for i, h in enumerate(handles) if h is not None]
        found: list[Gpu] = []
        for index, handle in known:
            links = tuple(j for j, other in known if j != index and self._linked(handle, other))
            whole = replace(self._gpu(index, handle), links=links)
            found += list(self._slices(whole, handle)) or [whole]
        return tuple(found)

    def _gpu(self, index: int, handle: Any) -> Gpu:
        total, free, shares = self._sizes(handle)
        capability = self.get((0, 0), "nvmlDeviceGetCudaComputeCapability", handle)
        return Gpu(
            index=index,
            name=_word(self.get("NVIDIA GPU", "nvmlDeviceGetName", handle)),
            uuid=_word(self.get(f"GPU-{index}", "nvmlDeviceGetUUID", handle)),
            memory_bytes=total,
            free_bytes=free,
            compute_capability=(int(capability[0]), int(capability[1])),
            memory_bandwidth_bytes_per_s=self._bandwidth(handle),
            power_limit_w=self.get(0, "nvmlDeviceGetEnforcedPowerLimit", handle) / 1000,
            power_w=self.get(0, "nvmlDeviceGetPowerUsage", handle) / 1000,
            temperature_c=float(self.get(0, "nvmlDeviceGetTemperature", handle, 0)),
            utilization=self._utilization(handle),
            throttled=self._throttled(handle),
            processes=self._processes(handle),
            pcie=self._pcie(handle),
            numa_node=int(self.get(-1, "nvmlDeviceGetNumaNodeId", handle)),
            shares_memory=shares,
        )

    def _sizes(self, handle: Any) -> tuple[int, int, bool]:
        """Total and free; a chip that shares the processor's memory may not say."""
        memory = self.get(None, "nvmlDeviceGetMemoryInfo", handle)
        if memory is None or not memory.total:
            return self._memory.total_bytes, self._memory.available_bytes, True
        return int(memory.total), int(memory.free), False

    def _bandwidth(self, handle: Any) -> float:
        """Twice the memory's clock, for it sends on both edges, times the width of its bus."""
        kind = getattr(self._nvml, "NVML_CLOCK_MEM", 2)
        megahertz = self.get(0, "nvmlDeviceGetMaxClockInfo", handle, kind)
        width = self.get(0, "nvmlDeviceGetMemoryBusWidth", handle)
        return 2 * megahertz * 1e6 * width / 8

    def _utilization(self, handle: Any) -> float:
        rates = self.get(None, "nvmlDeviceGetUtilizationRates", handle)
        return rates.gpu / 100 if rates is not None else 0.0

    def _throttled(self, handle: Any) -> tuple[str, ...]:
        bits = int(
            self.get(0, "nvmlDeviceGetCurrentClocksEventReasons", handle)
            or self.get(0, "nvmlDeviceGetCurrentClocksThrottleReasons", handle)
        )
        found = [
            reason
            for name, reason in _THROTTLES.items()
            if bits & int(getattr(self._nvml, name, 0))
        ]
        return tuple(dict.fromkeys(found))

    def _processes(self, handle: Any) -> tuple[Process, ...]:
        held: dict[int, int] = {}
        for kind in ("Compute", "Graphics"):
            for each in self.get([], f"nvmlDeviceGet{kind}RunningProcesses", handle):
                held[each.pid] = max(held.get(each.pid, 0), int(each.usedGpuMemory or 0))
        names = {
            pid: _word(self.get("", "nvmlSystemGetProcessName", pid)).rpartition("/")[2]
            for pid in held
        }
        return tuple(Process(pid, names[pid], size) for pid, size in sorted(held.items()))

    def _pcie(self, handle: Any) -> str:
        generation = self.get(0, "nvmlDeviceGetMaxPcieLinkGeneration", handle)
        width = self.get(0, "nvmlDeviceGetCurrPcieLinkWidth", handle)
        return f"{generation}.0 x{width}" if generation and width else ""

    def _linked(self, one: Any, other: Any) -> bool:
        kind = getattr(self._nvml, "NVML_P2P_CAPS_INDEX_NVLINK", None)
        if kind is None:
            return False
        fine = getattr(self._nvml, "NVML_P2P_STATUS_OK", 0)
        return bool(self.get(None, "nvmlDeviceGetP2PStatus", one, other, kind) == fine)

    def _slices(self, whole: Gpu, handle: Any) -> Iterator[Gpu]:
        """The instances of a card in MIG mode: engines see them, and not the card."""
        if not self.get((0, 0), "nvmlDeviceGetMigMode", handle)[0]:
            return
        for number in range(int(self.get(0, "nvmlDeviceGetMaxMigDeviceCount", handle))):
            part = self.get(None, "nvmlDeviceGetMigDeviceHandleByIndex", handle, number)
            if part is None:
                continue
            total, free, _ = self._sizes(part)
            share = total / whole.memory_bytes if whole.memory_bytes else 1.0
            yield replace(
                whole,
                name=_word(self.get(f"{whole.name} slice", "nvmlDeviceGetName", part)),
                uuid=_word(self.get(f"MIG-{whole.index}-{number}", "nvmlDeviceGetUUID", part)),
                memory_bytes=total,
                free_bytes=free,
                memory_bandwidth_bytes_per_s=whole.memory_bandwidth_bytes_per_s * share,
                processes=self._processes(part),
                links=(),
                is_slice=True,
            )


def _quiet(question: Callable[[], Any], otherwise: _T) -> Any | _T:
    try:
        return question()
    except Exception:
        return otherwise


def _word(answer: object) -> str:
    """Names were bytes in old versions."""
    return answer.decode(errors="replace") if isinstance(answer, bytes) else str(answer)
