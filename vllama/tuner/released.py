"""No start before the memory of the engine before it is back."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from vllama.bench.rig import Bench, Session
from vllama.errors import EngineFailed
from vllama.machine import GIB
from vllama.profile import Profile
from vllama.tuner import journal

WAIT_S, POLL_S, TOLERATED = 30.0, 0.5, 0.01


class Released:
    """A bench whose starts wait until the free memory is what it was before the first one."""

    def __init__(
        self, bench: Bench, free_bytes: Callable[[], Sequence[int]], wait_s: float = WAIT_S
    ) -> None:
        self._bench = bench
        self._free = free_bytes
        self._wait_s = wait_s
        self._at_first = list(free_bytes())
        self._live = 0

    @asynccontextmanager
    async def started(self, profile: Profile) -> AsyncIterator[Session]:
        """Start when the memory is there, unless others of ours hold it rightly.

        Raises:
            EngineFailed: an engine that was stopped has left its memory occupied.
        """
        if not self._live:
            await self._returned()
        self._live += 1
        try:
            async with self._bench.started(profile) as session:
                yield session
        finally:
            self._live -= 1

    async def _returned(self) -> None:
        until = time.monotonic() + self._wait_s
        while (lost := self._lost()) > 0:
            if time.monotonic() > until:
                journal.note("memory not released", bytes=lost)
                raise EngineFailed(
                    f"{lost / GIB:.1f} GiB that were free at the beginning are still occupied",
                    "Something else uses them, or an engine left them: see nvidia-smi.",
                    kind="out_of_memory",
                    phase="parse",
                )
            await asyncio.sleep(POLL_S)

    def _lost(self) -> int:
        """The most that is missing on any one GPU, beyond what is tolerated."""
        now = self._free()
        missing = [b - n for b, n in zip(self._at_first, now, strict=False)]
        worst = max(missing, default=0)
        return worst if worst > TOLERATED * max(self._at_first, default=0) else 0
