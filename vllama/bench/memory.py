"""The most memory an engine took while it was under load."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psutil

_EVERY_S = 0.5


@dataclass
class Peak:
    """The highest reading so far; None where nothing could be read."""

    highest_bytes: int | None = None

    def note(self, reading: int | None) -> None:
        if reading is not None:
            self.highest_bytes = max(reading, self.highest_bytes or 0)


@asynccontextmanager
async def watched(pids: Sequence[int]) -> AsyncIterator[Peak]:
    """Sample the memory of these processes and their children while the block runs.

    On a card its memory counts, else the resident memory of the processes; pages that two
    of them share count twice.
    """
    peak = Peak()
    if not pids:
        yield peak
        return
    peak.note(used(pids))
    task = asyncio.create_task(_sample(pids, peak))
    try:
        yield peak
    finally:
        task.cancel()
        peak.note(used(pids))


async def _sample(pids: Sequence[int], peak: Peak) -> None:
    while True:
        await asyncio.sleep(_EVERY_S)
        peak.note(await asyncio.to_thread(used, pids))


def used(pids: Sequence[int]) -> int | None:
    """Bytes that these processes and their children use now."""
    ours = family(pids)
    on_cards = _on_cards({p.pid for p in ours})
    if on_cards:
        return on_cards
    total = 0
    for process in ours:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total or None


def family(pids: Sequence[int]) -> list[psutil.Process]:
    """These processes and all below them, as far as they are there."""
    found: dict[int, psutil.Process] = {}
    for pid in pids:
        try:
            process = psutil.Process(pid)
            for each in (process, *process.children(recursive=True)):
                found[each.pid] = each
        except psutil.Error:
            continue
    return list(found.values())


def _on_cards(pids: set[int]) -> int:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return 0
    total = 0
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            card = pynvml.nvmlDeviceGetHandleByIndex(index)
            for process in pynvml.nvmlDeviceGetComputeRunningProcesses(card):
                if process.pid in pids:
                    total += process.usedGpuMemory or 0
    except pynvml.NVMLError:
        return total
    finally:
        pynvml.nvmlShutdown()
    return total
