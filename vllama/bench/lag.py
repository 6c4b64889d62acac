"""Whether the client was the limit: how late its own clock ran, and how busy it was."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

_EVERY_S = 0.01
# The loop's timers count whole milliseconds.
_TIMER_S = 0.001


@dataclass
class Probe:
    """`late_s`: by how much a timer of the client fired too late, again and again."""

    late_s: list[float] = field(default_factory=list)
    busy: float = 0.0

    @property
    def p99_s(self) -> float:
        if not self.late_s:
            return 0.0
        ordered = sorted(self.late_s)
        return ordered[min(int(0.99 * len(ordered)), len(ordered) - 1)]

    def figures(self) -> dict[str, float]:
        """For the measurement."""
        return {"lag_p99_s": self.p99_s, "busy": self.busy}


@contextmanager
def quiet_collector() -> Iterator[None]:
    """No garbage collection while the block runs: its pauses would be the server's latency."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@asynccontextmanager
async def watched_clock() -> AsyncIterator[Probe]:
    """Watch the loop's own punctuality while the block runs."""
    probe = Probe()
    task = asyncio.create_task(_watch(probe))
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    try:
        yield probe
    finally:
        task.cancel()
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
        probe.busy = cpu_s / wall_s if wall_s > 0 else 0.0


async def _watch(probe: Probe) -> None:
    while True:
        due_s = time.perf_counter() + _EVERY_S
        await asyncio.sleep(_EVERY_S)
        probe.late_s.append(max(0.0, time.perf_counter() - due_s - _TIMER_S))
