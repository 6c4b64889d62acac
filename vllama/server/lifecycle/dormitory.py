"""Where engines sleep that had to make room: woken for the next request, or stopped for good."""

import asyncio
import logging
import math
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from vllama.engines.engine import Endpoint
from vllama.profile import Profile
from vllama.server.lifecycle import beds
from vllama.server.lifecycle.room import Stay
from vllama.server.lifecycle.timer import Handle, Timer

log = logging.getLogger(__name__)
# How often the host's memory is looked at while somebody sleeps.
LOOK_S = 5.0


@dataclass(eq=False, slots=True)
class Sleeper:
    """One engine that sleeps. Whoever leaves `stack` stops it."""

    key: str
    profile: Profile
    endpoint: Endpoint
    stack: AsyncExitStack
    since_s: float
    leaving: bool = False
    expiry: Handle | None = None
    watch: "asyncio.Task[None] | None" = field(default=None)

    @property
    def host_bytes(self) -> float:
        """What it takes of the host's memory."""
        return self.endpoint.sleep.host_bytes

    def stay(self) -> Stay:
        """What there is to know of it for making room."""
        rest_bytes = self.endpoint.sleep.rest_bytes
        return Stay(self.key, rest_bytes, 0, self.since_s, leaving=self.leaving, asleep=True)

    def let_go(self) -> None:
        """It is nobody's to watch any more."""
        if self.expiry is not None:
            self.expiry.cancel()
        if self.watch is not None:
            self.watch.cancel()


class Dormitory:
    """The engines that sleep. `free_bytes` says what the host has left now.

    Without arguments nobody can sleep: there is no memory.
    """

    def __init__(
        self, free_bytes: Callable[[], float] = lambda: 0.0, reserve_bytes: float = math.inf
    ) -> None:
        self._free_bytes = free_bytes
        self._reserve_bytes = reserve_bytes
        self._sleepers: list[Sleeper] = []
        self._stops: set[asyncio.Task[None]] = set()
        self._one_at_a_time = asyncio.Lock()
        self._look: Handle | None = None

    @property
    def sleepers(self) -> tuple[Sleeper, ...]:
        """Who sleeps, or is being stopped."""
        return tuple(self._sleepers)

    async def lay(
        self, key: str, profile: Profile, endpoint: Endpoint, stack: AsyncExitStack,
        lasts_s: float, timer: Timer,
    ) -> bool:  # fmt: skip
        """Put an engine to sleep for at most so long; whether it does.

        If so, what `stack` holds is the dormitory's from now on.
        """
        async with self._one_at_a_time:
            stopped = beds.make(
                endpoint.sleep.host_bytes, self._staying(),
                free_bytes=self._free_bytes(), reserve_bytes=self._reserve_bytes,
            )  # fmt: skip
            if stopped is None:
                return False
            for each in stopped:
                self._stop(each, "to let another sleep")
            await self._stopped()
            if not await endpoint.sleep.fall_asleep():
                return False
            sleeper = Sleeper(key, profile, endpoint, stack.pop_all(), timer.time())
            self._sleepers.append(sleeper)
        log.info("%s: sleeps", key)
        sleeper.watch = asyncio.create_task(self._watch(sleeper))
        if not math.isinf(lasts_s):
            sleeper.expiry = timer.call_later(lasts_s, lambda: self._stop(sleeper, "nobody asks"))
        self._look_later(timer)
        return True

    def take(self, key: str, profiles: Iterable[Profile]) -> Sleeper | None:
        """One of that model with one of these profiles, still asleep; it is the caller's now."""
        wanted = list(profiles)
        for each in self._staying():
            if each.key == key and each.profile in wanted:
                self._sleepers.remove(each)
                each.let_go()
                return each
        return None

    async def keep(self, key: str, profiles: Iterable[Profile]) -> None:
        """Stop those of that model that have other profiles than these."""
        wanted = list(profiles)
        for each in self._staying():
            if each.key == key and each.profile not in wanted:
                self._stop(each, "its profile has changed")
        await self._stopped()

    async def stop(self, key: str, why: str) -> None:
        """Stop all of that model, and wait until they are gone."""
        self.drop(key, why)
        await self._stopped()

    def drop(self, key: str, why: str = "it is unloaded") -> None:
        """Stop all of that model, some time soon."""
        for each in self._staying():
            if each.key == key:
                self._stop(each, why)

    async def close(self) -> None:
        """Stop everybody."""
        for each in self._staying():
            self._stop(each, "vllama stops")
        if self._look is not None:
            self._look.cancel()
        await self._stopped()

    def _staying(self) -> list[Sleeper]:
        return [each for each in self._sleepers if not each.leaving]

    def _stop(self, sleeper: Sleeper, why: str) -> None:
        if sleeper.leaving or sleeper not in self._sleepers:
            return
        sleeper.leaving = True
        log.info("%s: stopped in its sleep: %s", sleeper.key, why)
        task = asyncio.create_task(self._closed(sleeper), name=f"stop of {sleeper.key}")
        self._stops.add(task)
        task.add_done_callback(self._stops.discard)

    async def _closed(self, sleeper: Sleeper) -> None:
        sleeper.let_go()
        try:
            await sleeper.stack.aclose()
        finally:
            self._sleepers.remove(sleeper)

    async def _stopped(self) -> None:
        """Wait for those who are being stopped; they are, also when the waiting is broken off."""
        if self._stops:
            await asyncio.wait(set(self._stops))

    async def _watch(self, sleeper: Sleeper) -> None:
        cause = await sleeper.endpoint.life.ended()
        self._stop(sleeper, str(cause))

    def _look_later(self, timer: Timer) -> None:
        if self._look is None and self._sleepers:
            self._look = timer.call_later(LOOK_S, lambda: self._look_now(timer))

    def _look_now(self, timer: Timer) -> None:
        self._look = None
        # One at a time: what the first gives back is seen at the next look.
        leaving = any(each.leaving for each in self._sleepers)
        goes = None if leaving else beds.relieve(
            self._sleepers, free_bytes=self._free_bytes(), reserve_bytes=self._reserve_bytes
        )  # fmt: skip
        if goes is not None:
            self._stop(goes, "the host's memory is needed")
        self._look_later(timer)
