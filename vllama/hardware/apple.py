"""Apple's processors: a GPU that shares the memory."""

import platform
import subprocess

from vllama.hardware.processor import Memory
from vllama.machine import Gpu

# What macOS lets the GPU have; Metal itself recommends two thirds on the small machines.
_SMALL_BYTES = 36 * 1024**3
_SMALL_SHARE, _SHARE = 2 / 3, 3 / 4


def ask(memory: Memory) -> tuple[Gpu, ...]:
    """The GPU of Apple silicon; none elsewhere, and none on an Intel Mac."""
    if platform.system() != "Darwin" or platform.machine() != "arm64":
        return ()
    total = int(_sysctl("hw.memsize") or memory.total_bytes)
    share = _SMALL_SHARE if total <= _SMALL_BYTES else _SHARE
    usable = int(total * share)
    return (
        Gpu(
            index=0,
            name=_sysctl("machdep.cpu.brand_string") or "Apple silicon",
            uuid="apple-0",
            memory_bytes=usable,
            free_bytes=min(usable, memory.available_bytes),
            vendor="apple",
            shares_memory=True,
        ),
    )


def _sysctl(name: str) -> str:
    try:
        found = subprocess.run(
            ["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""
