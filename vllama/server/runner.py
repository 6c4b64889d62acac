"""One engine's stay in memory: who uses it, how long it may idle, and when it is over."""

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from vllama.engines.engine import Endpoint
from vllama.errors import EngineFailed
from vllama.profile import Profile
from vllama.uplink import UplinkPool

log = logging.getLogger(__name__)


class Handle(Protocol):
    """Something that was put off and can be called off."""

    def cancel(self) -> None:
        """Never do it."""
        ...


class Timer(Protocol):
    """Time, as an event loop keeps it; seconds."""

    def time(self) -> float:
        """Now, on a clock that only goes forward."""
        ...

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Handle:
        """Call back in `delay` seconds."""
        ...


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
    """One engine from the first request for it to its stop. Only its pool changes it."""

    def __init__(
        self, name: str, keep_alive_s: float, timer: Timer, expired: Callable[["Runner"], None]
    ) -> None:
        self.name = name
        self.keep_alive_s = keep_alive_s
        self.users = 0
        self.idle_since_s = timer.time()
        self.death: asyncio.Future[EngineFailed] = asyncio.get_running_loop().create_future()
        self.lease: asyncio.Future[tuple[Endpoint, UplinkPool, Profile]] = (
            asyncio.get_running_loop().create_future()
        )
        # A failed start nobody waits for any more is no news.
        self.lease.add_done_callback(lambda f: f.cancelled() or f.exception())
        self._timer = timer
        self._expired = expired
        self._expiry: Handle | None = None
        self._stop = asyncio.Event()

    @property
    def endpoint(self) -> Endpoint | None:
        """Where it answers, once it does."""
        done = self.lease.done() and self.lease.exception() is None
        return self.lease.result()[0] if done else None

    @property
    def expires_in_s(self) -> float:
        """How long it stays when nobody asks for it any more."""
        idle_s = 0.0 if self.users else self._timer.time() - self.idle_since_s
        return max(0.0, self.keep_alive_s - idle_s)

    def enter(self, keep_alive_s: float | None) -> None:
        """One more user; a keep-alive that is given stays until another is given."""
        self.users += 1
        if keep_alive_s is not None:
            self.keep_alive_s = keep_alive_s
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

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

    def stop(self) -> None:
        """Ask it to end."""
        self._stop.set()
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    async def until_over(self, endpoint: Endpoint) -> None:
        """Wait until it is asked to end or has died; a death is told in the log."""
        death = asyncio.ensure_future(endpoint.life.ended())
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({death, stop}, return_when=asyncio.FIRST_COMPLETED)
            if death.done():
                log.error("%s: the engine is gone: %s", self.name, death.result())
                self.death.set_result(death.result())
        finally:
            death.cancel()
            stop.cancel()

    def fail(self, error: BaseException) -> None:
        """Tell all who wait that it will not start."""
        if not self.lease.done():
            self.lease.set_exception(error)

    def end(self) -> None:
        """It is over, whatever the reason."""
        stopped = EngineFailed(f"{self.name}: the engine was stopped", kind="crash")
        self.fail(stopped)
        if not self.death.done():
            self.death.set_result(stopped)


def victim(idle: Sequence[Runner]) -> Runner | None:
    """Which idle engine has to go: the least recently used, those to be kept for ever last."""
    return min(
        idle,
        key=lambda runner: (math.isinf(runner.keep_alive_s), runner.idle_since_s),
        default=None,
    )
