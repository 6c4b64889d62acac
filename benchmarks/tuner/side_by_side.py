"""A bench that starts several engines together and lets one at a time be measured."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from vllama.bench.measurement import Measurement
from vllama.bench.rig import Bench, Session
from vllama.bench.workload import Workload
from vllama.engines.engine import Endpoint, Fact
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
class _InTurn:
    session: Session
    turn: asyncio.Lock

    @property
    def endpoint(self) -> Endpoint:
        return self.session.endpoint

    @property
    def facts(self) -> Mapping[str, Fact]:
        return self.session.facts

    @property
    def start_s(self) -> float:
        return self.session.start_s

    async def measure(self, workload: Workload) -> Measurement:
        async with self.turn:
            return await self.session.measure(workload)
