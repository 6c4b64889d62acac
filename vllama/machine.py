"""What this computer is. Only this module asks the hardware who it is."""

import os
import platform
import re
from dataclasses import dataclass, field
from pathlib import Path

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Gpu:
    """One accelerator. Sizes in bytes; `compute_capability` as (major, minor)."""

    index: int
    name: str
    uuid: str
    memory_bytes: int
    free_bytes: int
    compute_capability: tuple[int, int] = (0, 0)
    memory_bandwidth_bytes_per_s: float = 0.0
    vendor: str = "nvidia"


@dataclass(frozen=True, slots=True)
class Cpu:
    """The processor: `cores` may be used by this process (affinity and quota counted in)."""

    name: str
    cores: int
    physical_cores: int
    features: frozenset[str] = field(default_factory=frozenset)
    numa_nodes: int = 1


@dataclass(frozen=True, slots=True)
class Machine:
    """This computer, as far as an engine's speed depends on it."""

    gpus: tuple[Gpu, ...]
    cpu: Cpu
    memory_bytes: int
    available_bytes: int
    driver: str = ""
    system: str = "Linux"

    @property
    def fingerprint(self) -> str:
        """Such as `1x-nvidia-h200-141gb` or `cpu-2c-24gb-x86_64`: equal ones may be compared."""
        if not self.gpus:
            gib = round(self.memory_bytes / GIB)
            return f"cpu-{self.cpu.cores}c-{gib}gb-{platform.machine().lower()}"
        first = self.gpus[0]
        name = re.sub(r"[^a-z0-9]+", "-", first.name.lower()).strip("-")
        return f"{len(self.gpus)}x-{name}-{round(first.memory_bytes / 1e9)}gb"


def detect() -> Machine:
    """Ask the hardware. Never fails: what cannot be asked is left out."""
    import psutil

    memory = psutil.virtual_memory()
    gpus, driver = _nvidia()
    return Machine(
        gpus=gpus,
        cpu=Cpu(
            name=_cpu_name(),
            cores=_usable_cores(),
            physical_cores=psutil.cpu_count(logical=False) or 1,
            features=_cpu_features(),
            numa_nodes=len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) or 1,
        ),
        memory_bytes=memory.total,
        available_bytes=memory.available,
        driver=driver,
        system=platform.system(),
    )


def _nvidia() -> tuple[tuple[Gpu, ...], str]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return (), ""
    try:
        gpus = tuple(_nvidia_gpu(i) for i in range(pynvml.nvmlDeviceGetCount()))
        return gpus, str(pynvml.nvmlSystemGetDriverVersion())
    finally:
        pynvml.nvmlShutdown()


def _nvidia_gpu(index: int) -> Gpu:
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    try:
        clock_hz = pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_MEM) * 1e6
        bandwidth = 2 * clock_hz * pynvml.nvmlDeviceGetMemoryBusWidth(handle) / 8
    except pynvml.NVMLError:
        bandwidth = 0.0
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(
        index=index,
        name=str(pynvml.nvmlDeviceGetName(handle)),
        uuid=str(pynvml.nvmlDeviceGetUUID(handle)),
        memory_bytes=int(memory.total),
        free_bytes=int(memory.free),
        compute_capability=(int(major), int(minor)),
        memory_bandwidth_bytes_per_s=bandwidth,
    )


def _usable_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def _cpu_name() -> str:
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cpu_features() -> frozenset[str]:
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve")
    for line in _cpuinfo():
        if line.startswith(("flags", "Features")):
            return frozenset(line.split()) & frozenset(wanted)
    return frozenset()


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
