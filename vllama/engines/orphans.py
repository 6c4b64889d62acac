"""Engines whose vllama is gone: known by what they carry in their environment, and stopped.

The guard stops an engine however vllama ends. This is for the rest: when vllama and both
guards are killed at once, vLLM's engine core lives on and keeps the GPU's memory.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

MARK = "VLLAMA_OWNER"
# The system's clock may be set between two readings of when a process started.
TOLERANCE_S = 5.0
STOP_S = 5.0


def mark() -> dict[str, str]:
    """What an engine's environment says of its owner: this process, and no later namesake."""
    started = psutil.Process().create_time()
    return {MARK: f"{_namespace()} {os.getpid()} {started:.2f}"}


def stop() -> list[int]:
    """Stop every process whose owner is gone; their numbers."""
    orphans = list(_orphans())
    for each in orphans:
        logging.getLogger("vllama.engines").warning(
            "stopping process %d, left by a vllama that was killed", each.pid
        )
        with contextlib.suppress(psutil.Error):
            each.kill()
    psutil.wait_procs(orphans, STOP_S)
    return [each.pid for each in orphans]


def _orphans() -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if _is_orphan(process.environ().get(MARK, "")):
                yield process


def _is_orphan(told: str) -> bool:
    namespace, _, owner = told.partition(" ")
    number, _, started = owner.partition(" ")
    # Numbers of another container's processes say nothing here.
    if namespace != _namespace() or not number.isdigit():
        return False
    try:
        found = float(psutil.Process(int(number)).create_time())
        return abs(found - float(started)) > TOLERANCE_S
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, ValueError):
        return False


def _namespace() -> str:
    """Within what process numbers mean something: Linux's namespace, elsewhere the computer."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return "here"
