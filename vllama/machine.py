"""What a computer is: its accelerators, its processor, its memory, and who else uses them."""

import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Process:
    """A process that holds memory of an accelerator."""

    pid: int
    name: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Gpu:
    """One accelerator, or a slice of one (MIG). Sizes in bytes; what could not be asked is 0.

    `throttled` are the reasons for which it runs below its clocks now. `links` are the
    indices of those that NVLink or its like joins to it. `shares_memory` with the processor.
    """

    index: int
    name: str
    uuid: str
    memory_bytes: int
    free_bytes: int
    compute_capability: tuple[int, int] = (0, 0)
    memory_bandwidth_bytes_per_s: float = 0.0
    vendor: str = "nvidia"
    power_limit_w: float = 0.0
    power_w: float = 0.0
    temperature_c: float = 0.0
    utilization: float = 0.0
    throttled: tuple[str, ...] = ()
    processes: tuple[Process, ...] = ()
    links: tuple[int, ...] = ()
    pcie: str = ""
    numa_node: int = -1
    is_slice: bool = False
    shares_memory: bool = False

    @property
    def is_busy(self) -> bool:
        """Whether somebody else uses it enough to spoil a measurement."""
        held = sum(p.memory_bytes for p in self.processes)
        return self.utilization > 0.02 or held > 300 * 1024**2


@dataclass(frozen=True, slots=True)
class Cpu:
    """The processor: `cores` may be used by this process (affinity and quota counted in).

    `node_bytes` is the memory of its first NUMA node; 0 where that is not told.
    """

    name: str
    cores: int
    physical_cores: int
    features: frozenset[str] = field(default_factory=frozenset)
    numa_nodes: int = 1
    node_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Machine:
    """This computer, as far as an engine's speed depends on it."""

    gpus: tuple[Gpu, ...]
    cpu: Cpu
    memory_bytes: int
    available_bytes: int
    driver: str = ""
    system: str = "Linux"
    cuda: str = ""

    @property
    def fingerprint(self) -> str:
        """Such as `1x-nvidia-h200-141gb` or `cpu-2c-24gb-x86_64`: equal ones may be compared."""
        if not self.gpus:
            gib = round(self.memory_bytes / GIB)
            return f"cpu-{self.cpu.cores}c-{gib}gb-{platform.machine().lower()}"
        first = self.gpus[0]
        name = re.sub(r"[^a-z0-9]+", "-", first.name.lower()).strip("-")
        return f"{len(self.gpus)}x-{name}-{round(first.memory_bytes / 1e9)}gb"

    def visible_to(self, environment: Mapping[str, str]) -> "Machine":
        """With only the accelerators that CUDA_VISIBLE_DEVICES or its like leaves to a process.

        NVML and its likes list all of them, whatever the variables say. ROCm counts those
        of HIP_VISIBLE_DEVICES among what ROCR_VISIBLE_DEVICES has left.
        """
        gpus = self.gpus
        for names in _FILTERS.get(gpus[0].vendor if gpus else "", ()):
            listed = next((environment[n] for n in names if n in environment), None)
            gpus = gpus if listed is None else tuple(_listed(gpus, listed))
        return replace(self, gpus=gpus)


# By vendor: what is applied one after the other, and of each the name that comes first.
_FILTERS = {
    "nvidia": (("CUDA_VISIBLE_DEVICES",),),
    "amd": (("ROCR_VISIBLE_DEVICES",), ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")),
}


def _listed(gpus: tuple[Gpu, ...], words: str) -> Iterator[Gpu]:
    """Those that the words name: by position, or by the beginning of a UUID."""
    taken = []
    for word in (w.strip() for w in words.split(",")):
        at = int(word) if word.isdigit() else -1
        found = [g for i, g in enumerate(gpus) if i == at] or [
            g for g in gpus if at < 0 and word and g.uuid.startswith(word)
        ]
        # As CUDA does: what follows a name that is not there does not count.
        if len(found) != 1 or found[0] in taken:
            break
        taken += found
        yield found[0]
