"""A bench that starts several engines together and lets one at a time be measured."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from vllama.bench.measurement import Measurement
from vllama.bench.rig import Bench, Fronted, Session
from vllama.bench.workload import Workload
from vllama.profile import Profile


class SideBySide:
    """For so many starts: nobody is measured before all are up or have fallen."""

    def __init__(self, bench: Bench, starts: int) -> None:
        self._bench = bench
        self._awaited = starts
        self._all_settled = asyncio.Event()
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def started(self, profile: Profile) -> AsyncIterator[Session]:
        """Start one of them."""
        settled = False
        try:
            async with self._bench.started(profile) as session:
                self._settle()
                settled = True
                await self._all_settled.wait()
                yield _InTurn(session, self._turn)
        finally:
            if not settled:
                self._settle()

    def _settle(self) -> None:
        self._awaited -= 1
        if self._awaited <= 0:
            self._all_settled.set()


@dataclass(frozen=True, slots=True)
class _InTurn(Fronted):
    turn: asyncio.Lock

    async def measure(self, workload: Workload) -> Measurement:
        async with self.turn:
            return await self.session.measure(workload)
