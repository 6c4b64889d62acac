"""One replica, kept up: started with the first profile that works, watched, started again."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from vllama.engines.engine import Endpoint
from vllama.errors import EngineError, EngineFailed, VllamaError
from vllama.profile import Profile
from vllama.server.lifecycle import watch
from vllama.server.lifecycle.night import Night
from vllama.server.lifecycle.plan import Start
from vllama.server.lifecycle.replicas import Fleet, Replica
from vllama.server.lifecycle.standing import Standing
from vllama.server.lifecycle.timer import Timer, sleep
from vllama.uplink import UplinkPool

log = logging.getLogger(__name__)
# How long an engine that somebody else runs is left alone before it is asked again.
RETURN_S = 1.0
PORT_TRIES = 2


class Unavailable(EngineError):
    """It cannot be had now; try again in `retry_after_s`."""

    def __init__(self, message: str, remedy: str = "", retry_after_s: float = 1.0) -> None:
        super().__init__(message, remedy)
        self.retry_after_s = retry_after_s


class Member:
    """Keeps one replica of the model `key` in `fleet`. `gate` lets one start at a time."""

    def __init__(
        self,
        key: str,
        starts: Sequence[Start],
        fleet: Fleet,
        standing: Standing,
        timer: Timer,
        gate: asyncio.Lock | None,
        changed: Callable[[], None],
        night: Night,
    ) -> None:
        self._key = key
        self._starts = starts
        self._fleet = fleet
        self._standing = standing
        self._timer = timer
        self._gate = gate
        self._changed = changed
        self._night = night

    async def keep_up(self) -> None:
        """Run until cancelled, or until the engine is in bed or stopped because night fell.

        Raises:
            VllamaError: it cannot be started, or has crashed too often, and is not an engine
                of somebody else, which may come back at any time.
        """
        while True:
            try:
                cause = await self._live()
            except EngineFailed as error:
                if self._gate is not None:
                    self._standing.strike(self._timer.time(), error)
                    raise
                self._fleet.refuse(_away(error))
                await sleep(self._timer, RETURN_S)
                continue
            if cause is None or self._night.has_fallen:
                return
            if self._gate is None:
                continue
            now_s = self._timer.time()
            self._standing.strike(now_s, cause)
            if self._standing.parked_s(now_s):
                raise parked(self._key, self._standing, now_s)
            await sleep(self._timer, self._standing.delay_s(now_s))

    async def _live(self) -> EngineFailed | None:
        """From start to death, whose cause it tells; None when night fell."""
        async with AsyncExitStack() as stack:
            endpoint, profile = await self._start(stack)
            uplinks = UplinkPool(endpoint.base_url)
            death = asyncio.get_running_loop().create_future()
            replica = Replica(endpoint, uplinks, profile, death, seed=endpoint.base_url.encode())
            began_s = self._timer.time()
            cause = None
            self._fleet.add(replica)
            self._changed()
            try:
                cause = await self._over(endpoint, uplinks)
            finally:
                stopped = EngineFailed(f"{self._key}: the engine was stopped", kind="crash")
                self._fleet.remove(replica, cause or stopped)
                self._standing.settle(self._timer.time() - began_s)
                self._changed()
            if cause is None:
                await self._night.lay(endpoint, profile, stack)
        return cause

    async def _over(self, endpoint: Endpoint, uplinks: UplinkPool) -> EngineFailed | None:
        """Wait until the engine is gone, and why, or until night falls: None."""
        death = asyncio.ensure_future(watch.over(endpoint, uplinks))
        night = asyncio.ensure_future(self._night.falls())
        try:
            await asyncio.wait({death, night}, return_when=asyncio.FIRST_COMPLETED)
            if not death.done():
                return None
            log.error("%s: the engine is gone: %s", self._key, death.result())
            return death.result()
        finally:
            death.cancel()
            night.cancel()

    async def _start(self, stack: AsyncExitStack) -> tuple[Endpoint, Profile]:
        async with _through(self._gate):
            trusted = [s for s in self._starts if self._standing.trusts(s.profile.digest)]
            starts = trusted or list(self._starts)
            woken = await self._night.woken(starts, stack)
            if woken is not None:
                return woken
            for start, following in zip(starts, [*starts[1:], None], strict=True):
                try:
                    endpoint = await _entered(stack, start)
                except EngineFailed as error:
                    if following is None or error.kind == "bad_model":
                        raise
                    self._standing.distrust(start.profile.digest)
                    log.warning(
                        "%s: profile '%s' no longer starts (%s); taking '%s' instead",
                        self._key, start.profile.name, error.message, following.profile.name,
                    )  # fmt: skip
                else:
                    return endpoint, start.profile
        raise VllamaError(f"there is no way to start {self._key}")


async def _entered(stack: AsyncExitStack, start: Start) -> Endpoint:
    """Start it; again when its port was stolen in between, which is nobody's fault."""
    for _ in range(PORT_TRIES):
        try:
            return await stack.enter_async_context(start.engine.start(start.profile))
        except EngineFailed as error:
            if error.kind != "port":
                raise
            log.warning("its port was taken by somebody else meanwhile; trying another")
    return await stack.enter_async_context(start.engine.start(start.profile))


def _away(error: EngineFailed) -> EngineError:
    """What to tell of somebody else's engine: it may be back soon, unless it is a wrong one."""
    if error.kind == "bad_model":
        return error
    return Unavailable(error.message, error.remedy, retry_after_s=RETURN_S)


def parked(key: str, standing: Standing, now_s: float) -> Unavailable:
    """The error for a model that is left alone for a while."""
    why = standing.cause.message if standing.cause else "it keeps failing"
    left_s = standing.parked_s(now_s)
    return Unavailable(
        f"{key} keeps crashing and is left alone for {left_s:.0f} s: {why}",
        "Look at its log with --verbose, or tune it again.",
        retry_after_s=left_s,
    )


@asynccontextmanager
async def _through(gate: asyncio.Lock | None) -> AsyncIterator[None]:
    if gate is None:
        yield
        return
    async with gate:
        yield
