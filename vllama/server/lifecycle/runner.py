"""One model's stay in memory: who uses it, how long it may idle, and when it is over."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from vllama.engines.engine import Endpoint
from vllama.errors import EngineFailed, VllamaError
from vllama.profile import Profile
from vllama.server.lifecycle.plan import Plan
from vllama.server.lifecycle.replicas import Fleet, Replica
from vllama.server.lifecycle.room import Stay
from vllama.server.lifecycle.timer import Handle, Timer
from vllama.server.lifecycle.turns import Turns
from vllama.uplink import UplinkPool


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to use a running engine; `waited_s` is how long it took to get it."""

    endpoint: Endpoint
    uplinks: UplinkPool
    profile: Profile
    waited_s: float
    death: "asyncio.Future[EngineFailed]"

    async def lost(self, patience_s: float) -> EngineFailed | None:
        """Why the engine died, if it is found dead within `patience_s`."""
        await asyncio.wait({self.death}, timeout=patience_s)
        return self.death.result() if self.death.done() else None


class Runner:
    """The engines of one model from the first request for it to their stop.

    Only its pool changes it.
    """

    def __init__(
        self, key: str, keep_alive_s: float, timer: Timer, expired: Callable[["Runner"], None]
    ) -> None:
        self.key = key
        self.keep_alive_s = keep_alive_s
        self.users = 0
        self.idle_since_s = timer.time()
        self.ready_at_s = math.inf
        self.admitted = False
        # How long its engines may sleep once it is over; 0: they are stopped.
        self.sleeps_s = 0.0
        self.plan: Plan | None = None
        self.fleet = Fleet()
        self.turns = Turns()
        self.over = asyncio.Event()
        self._timer = timer
        self._expired = expired
        self._expiry: Handle | None = None
        self._error: VllamaError | None = None

    @property
    def is_ready(self) -> bool:
        """Whether an engine answers now."""
        return bool(self.fleet.replicas)

    @property
    def expires_in_s(self) -> float:
        """How long it stays when nobody asks for it any more."""
        idle_s = 0.0 if self.users else self._timer.time() - self.idle_since_s
        return max(0.0, self.keep_alive_s - idle_s)

    def stay(self, *, settled: bool, leaving: bool) -> Stay:
        """What there is to know of it for making room."""
        return Stay(
            key=self.key,
            need_bytes=self.plan.whole_bytes if self.plan else 0,
            users=self.users,
            idle_since_s=self.idle_since_s,
            pinned=math.isinf(self.keep_alive_s),
            settled=settled,
            leaving=leaving,
        )

    async def begin(
        self,
        client: str,
        affinity: bytes,
        pend: Callable[["Runner", Awaitable[None]], Awaitable[None]],
    ) -> tuple[Replica, Lease]:
        """A turn on one of the engines, until `finish`; `pend` waits where waiting is bounded."""
        began_s = self._timer.time()
        if not self.is_ready:
            await pend(self, self._answering())
        if not self.turns.took():
            await pend(self, self.turns.take(client))
        try:
            # The engine may have died while one waited for a turn.
            if not self.is_ready:
                await pend(self, self._answering())
            replica = self.fleet.pick(affinity)
        except BaseException:
            self.turns.give()
            raise
        replica.running += 1
        return replica, self._lease(replica, self._timer.time() - began_s)

    def finish(self, replica: Replica) -> None:
        """The turn is over."""
        replica.running -= 1
        self.turns.give()

    def changed(self) -> None:
        """An engine came or went."""
        if self.is_ready:
            self.ready_at_s = min(self.ready_at_s, self._timer.time())
            self.turns.limit = self.fleet.limit

    def enter(self, keep_alive_s: float | None) -> None:
        """One more user; a keep-alive that is given stays until another is given."""
        self.users += 1
        if keep_alive_s is not None:
            self.keep_alive_s = keep_alive_s
        self._call_off()

    def leave(self) -> None:
        """One user less; the last one starts the countdown."""
        self.users -= 1
        if self.users:
            return
        self.idle_since_s = self._timer.time()
        if self.keep_alive_s <= 0:
            self._expired(self)
        elif not math.isinf(self.keep_alive_s):
            self._expiry = self._timer.call_later(self.keep_alive_s, lambda: self._expired(self))

    def end(self, error: VllamaError) -> None:
        """It is over: whoever still waits hears `error`."""
        self._error = error
        self._call_off()
        self.fleet.refuse(error)
        self.over.set()

    def _call_off(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    async def _answering(self) -> None:
        if self._error is not None:
            raise self._error
        await self.fleet.answering()

    def _lease(self, replica: Replica, waited_s: float) -> Lease:
        return Lease(replica.endpoint, replica.uplinks, replica.profile, waited_s, replica.death)
