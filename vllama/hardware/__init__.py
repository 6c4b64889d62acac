"""Asking the hardware who it is: the only room that does."""

import platform
from collections.abc import Mapping
from pathlib import Path

from vllama.hardware import amd, apple, nvidia, processor
from vllama.machine import Machine

ROOT = Path("/")


def visible(environment: Mapping[str, str]) -> Machine:
    """This computer as an engine with this environment will see it."""
    return detect().visible_to(environment)


def available_bytes(root: Path = ROOT) -> int:
    """What is left of this computer's memory now; cheap."""
    return processor.memory(root).available_bytes


def detect(root: Path = ROOT) -> Machine:
    """This computer; `root` is where its /proc and /sys lie. Never fails."""
    memory = processor.memory(root)
    gpus, driver, cuda = nvidia.ask(memory)
    if not gpus:
        gpus = amd.ask(root) or apple.ask(memory)
    return Machine(
        gpus=gpus,
        cpu=processor.ask(root),
        memory_bytes=memory.total_bytes,
        available_bytes=memory.available_bytes,
        driver=driver,
        system=platform.system(),
        cuda=cuda,
    )
