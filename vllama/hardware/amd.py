"""AMD's accelerators: by their own library where ROCm is installed, else from the kernel."""

import importlib
from pathlib import Path
from typing import Any

from vllama.machine import Gpu

_VENDOR = "0x1002"
_MIB = 1024**2
# Less is the part of an integrated display, which no engine uses.
_LEAST_BYTES = 4 * 1024**3


def ask(root: Path) -> tuple[Gpu, ...]:
    """All of them; none when there are none or nothing can be asked."""
    return _by_library() or _by_kernel(root)


def _by_library() -> tuple[Gpu, ...]:
    try:
        # Its import fails in several ways where ROCm's own library is missing.
        smi: Any = importlib.import_module("amdsmi")
        smi.amdsmi_init()
    except Exception:
        return ()
    try:
        handles = smi.amdsmi_get_processor_handles()
        return tuple(_gpu(smi, index, handle) for index, handle in enumerate(handles))
    except Exception:
        return ()
    finally:
        smi.amdsmi_shut_down()


def _gpu(smi: Any, index: int, handle: Any) -> Gpu:
    memory = smi.amdsmi_get_gpu_vram_usage(handle)
    total = int(memory["vram_total"]) * _MIB
    return Gpu(
        index=index,
        name=str(smi.amdsmi_get_gpu_asic_info(handle)["market_name"]),
        uuid=str(smi.amdsmi_get_gpu_device_uuid(handle)),
        memory_bytes=total,
        free_bytes=total - int(memory["vram_used"]) * _MIB,
        vendor="amd",
    )


def _by_kernel(root: Path) -> tuple[Gpu, ...]:
    found: list[Gpu] = []
    for device in sorted(root.glob("sys/class/drm/card[0-9]*/device")):
        if _text(device / "vendor") != _VENDOR:
            continue
        total, used = _text(device / "mem_info_vram_total"), _text(device / "mem_info_vram_used")
        if not total.isdigit() or int(total) < _LEAST_BYTES:
            continue
        found.append(
            Gpu(
                index=len(found),
                name=_text(device / "product_name") or "AMD GPU",
                uuid=_text(device / "unique_id") or device.parent.name,
                memory_bytes=int(total),
                free_bytes=int(total) - (int(used) if used.isdigit() else 0),
                vendor="amd",
            )
        )
    return tuple(found)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
