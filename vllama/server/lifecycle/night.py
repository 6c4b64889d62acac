"""The nights of one model's engines: when they go to sleep, and how they are woken."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack

from vllama.engines.engine import Endpoint
from vllama.profile import Profile
from vllama.server.lifecycle.dormitory import Dormitory
from vllama.server.lifecycle.plan import Start
from vllama.server.lifecycle.standing import Standing
from vllama.server.lifecycle.timer import Timer

log = logging.getLogger(__name__)


class Night:
    """What the engines of the model `key` have to do with the dormitory."""

    def __init__(self, key: str, dormitory: Dormitory, standing: Standing, timer: Timer) -> None:
        self._key = key
        self._dormitory = dormitory
        self._standing = standing
        self._timer = timer
        self._lasts_s = 0.0
        self._falls = asyncio.Event()

    def fall(self, lasts_s: float) -> None:
        """It is time to sleep, at most for so long."""
        self._lasts_s = lasts_s
        self._falls.set()

    @property
    def has_fallen(self) -> bool:
        """Whether it is time to sleep."""
        return self._falls.is_set()

    async def falls(self) -> None:
        """Wait until it is time to sleep."""
        await self._falls.wait()

    async def lay(self, endpoint: Endpoint, profile: Profile, stack: AsyncExitStack) -> None:
        """Put an engine to sleep; if it cannot, it is left as it is, on `stack`."""
        if await self._dormitory.lay(
            self._key, profile, endpoint, stack, self._lasts_s, self._timer
        ):
            self._standing.sleeps += 1

    async def woken(
        self, starts: Sequence[Start], stack: AsyncExitStack
    ) -> tuple[Endpoint, Profile] | None:
        """One that slept and answers again, now on `stack`; None: one has to be started."""
        found = self._dormitory.take(self._key, [start.profile for start in starts])
        if found is None:
            return None
        async with AsyncExitStack() as bed:
            await bed.enter_async_context(found.stack)
            began_s = self._timer.time()
            if await found.endpoint.sleep.wake():
                self._standing.wakes += 1
                log.info("%s: awake after %.1f s", self._key, self._timer.time() - began_s)
                await stack.enter_async_context(bed.pop_all())
                return found.endpoint, found.profile
            self._standing.failed_wakes += 1
            log.warning("%s: does not wake, so it is started again", self._key)
        return None
