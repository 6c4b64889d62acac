"""The processor and its memory, within the limits that this process is held to."""

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from vllama.machine import Cpu

_FEATURES = frozenset(
    {"avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16",
     "avx_vnni", "amx_tile", "amx_bf16", "amx_fp16", "amx_int8", "asimd", "asimddp", "asimdhp",
     "bf16", "i8mm", "sve", "sve2", "rvv"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Memory:
    """Of the whole computer, or of the container that this process may not leave."""

    total_bytes: int
    available_bytes: int


def memory(root: Path) -> Memory:
    """Total and available; zeros where nothing can be asked."""
    try:
        import psutil

        here = psutil.virtual_memory()
        total, available = int(here.total), int(here.available)
    except Exception:
        total = available = 0
    limit = _number(root / "sys/fs/cgroup/memory.max") or _number(
        root / "sys/fs/cgroup/memory/memory.limit_in_bytes"
    )
    used = _number(root / "sys/fs/cgroup/memory.current") or _number(
        root / "sys/fs/cgroup/memory/memory.usage_in_bytes"
    )
    if not limit or limit >= total:
        return Memory(total, available)
    cached = _stat(root / "sys/fs/cgroup/memory.stat", "inactive_file")
    return Memory(limit, max(0, min(available, limit - used + cached)))


def ask(root: Path) -> Cpu:
    """The processor."""
    return Cpu(
        name=_name(root),
        cores=_cores(root),
        physical_cores=_physical_cores(),
        features=_features(root),
        numa_nodes=max(1, len(list(root.glob("sys/devices/system/node/node[0-9]*")))),
        node_bytes=_node_bytes(root),
    )


def _node_bytes(root: Path) -> int:
    """Of the first node; a virtual machine's may have less than all that there is."""
    told = re.search(r"MemTotal:\s+(\d+) kB", _text(root / "sys/devices/system/node/node0/meminfo"))
    return int(told[1]) * 1024 if told else 0


def _cores(root: Path) -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    words = _text(root / "sys/fs/cgroup/cpu.max").split()
    if len(words) == 2 and words[0].isdigit() and words[1].isdigit():
        return max(1, min(cores, int(words[0]) // max(1, int(words[1]))))
    quota = _number(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    period = _number(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us")
    return max(1, min(cores, quota // period)) if quota > 0 and period > 0 else cores


def _physical_cores() -> int:
    try:
        import psutil

        return int(psutil.cpu_count(logical=False) or 1)
    except Exception:
        return 1


def _name(root: Path) -> str:
    for line in _text(root / "proc/cpuinfo").splitlines():
        if line.startswith(("model name", "Model name", "Hardware")):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "unknown"


def _features(root: Path) -> frozenset[str]:
    for line in _text(root / "proc/cpuinfo").splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.split()) & _FEATURES
    return frozenset()


def _number(path: Path) -> int:
    text = _text(path).strip()
    return int(text) if text.lstrip("-").isdigit() else 0


def _stat(path: Path, name: str) -> int:
    for line in _text(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.strip().isdigit():
            return int(value)
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
