"""Which engines run: started on demand, shared, kept alive, evicted, and replaced when dead."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

from vllama.engines.engine import Endpoint, Engine
from vllama.errors import EngineError, EngineFailed, VllamaError
from vllama.profile import Profile
from vllama.server.runner import Lease, Runner, Timer, victim
from vllama.uplink import UplinkPool

Choose: TypeAlias = Callable[[str], tuple[Engine, Profile]]


class PoolBusy(EngineError):
    """More requests wait for an engine than may wait; try again in `retry_after_s`."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Loaded:
    """One running engine; `expires_in_s` is infinite for one that stays."""

    name: str
    endpoint: Endpoint
    profile: Profile
    expires_in_s: float
    users: int


class Pool:
    """The running engines, by model name. It alone starts and stops them.

    `choose` says how to launch a model; `max_loaded` how many run beside each other;
    `max_waiting` how many requests may wait for one that is not ready yet.
    """

    def __init__(
        self,
        choose: Choose,
        *,
        keep_alive_s: float = 300.0,
        max_loaded: int = 1,
        max_waiting: int = 512,
        timer: Timer | None = None,
    ) -> None:
        self._choose = choose
        self._keep_alive_s = keep_alive_s
        self._max_loaded = max(1, max_loaded)
        self._max_waiting = max_waiting
        self._given_timer = timer
        self._runners: dict[str, Runner] = {}
        self._leaving: set[Runner] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting = asyncio.Lock()
        self._changed = asyncio.Event()
        self._waiting = 0
        self._closed = False

    @asynccontextmanager
    async def lease(self, name: str, keep_alive_s: float | None = None) -> AsyncIterator[Lease]:
        """Use the engine of the model `name`, starting it if need be.

        `keep_alive_s` is how long it stays after its last user, from now on; None leaves it.

        Raises:
            PoolBusy: too many wait already.
            VllamaError: it cannot be started; all who waited for this start get the same.
        """
        if self._closed:
            raise EngineFailed("vllama is stopping", "Ask again when it is back.")
        runner = self._runner(name)
        runner.enter(keep_alive_s)
        try:
            began_s = self._timer.time()
            endpoint, uplinks, profile = await self._await_start(runner)
            waited_s = self._timer.time() - began_s
            yield Lease(endpoint, uplinks, profile, waited_s, runner.death)
        finally:
            runner.leave()
            self._changed.set()

    async def preload(self, name: str, keep_alive_s: float | None = None) -> None:
        """Start the engine of `name` now, as a request without work would."""
        async with self.lease(name, keep_alive_s):
            pass

    def unload(self, name: str) -> None:
        """Let the engine of `name` go now, or after its last user; nothing if there is none."""
        runner = self._runners.get(name)
        if runner is None:
            return
        runner.keep_alive_s = 0.0
        if not runner.users:
            self._retire(runner)

    def loaded(self) -> list[Loaded]:
        """The engines that answer, longest remaining life first."""
        found = []
        for runner in self._runners.values():
            if runner.endpoint is not None:
                endpoint, _, profile = runner.lease.result()
                found.append(
                    Loaded(runner.name, endpoint, profile, runner.expires_in_s, runner.users)
                )
        return sorted(found, key=lambda one: -one.expires_in_s)

    async def close(self) -> None:
        """Leave the context of every engine; requests for one are refused from now on."""
        self._closed = True
        for runner in list(self._runners.values()):
            self._retire(runner)
        for task in self._tasks:
            if not task.cancelling():
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def _timer(self) -> Timer:
        return self._given_timer or asyncio.get_running_loop()

    def _runner(self, name: str) -> Runner:
        runner = self._runners.get(name)
        if runner is None:
            runner = Runner(name, self._keep_alive_s, self._timer, self._retire)
            self._runners[name] = runner
            task = asyncio.create_task(self._run(runner), name=f"engine of {name}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return runner

    async def _await_start(self, runner: Runner) -> tuple[Endpoint, UplinkPool, Profile]:
        if runner.lease.done():
            return runner.lease.result()
        if self._waiting >= self._max_waiting:
            raise PoolBusy("server busy, please try again.  maximum pending requests exceeded")
        self._waiting += 1
        try:
            return await asyncio.shield(runner.lease)
        finally:
            self._waiting -= 1

    async def _run(self, runner: Runner) -> None:
        try:
            async with AsyncExitStack() as stack:
                async with self._starting:
                    await self._make_room(runner)
                    if not runner.users:  # all who wanted it have left
                        return
                    engine, profile = self._choose(runner.name)
                    endpoint = await stack.enter_async_context(engine.start(profile))
                uplinks = UplinkPool(endpoint.base_url)
                stack.callback(uplinks.close)
                runner.lease.set_result((endpoint, uplinks, profile))
                await runner.until_over(endpoint)
                self._retire(runner)
        except (VllamaError, OSError) as error:
            runner.fail(error)
        finally:
            self._retire(runner)
            self._leaving.discard(runner)
            runner.end()
            self._changed.set()

    async def _make_room(self, runner: Runner) -> None:
        """Wait until one more engine may run, evicting idle ones."""
        while True:
            self._changed.clear()
            staying = [r for r in self._runners.values() if r.endpoint is not None]
            if len(staying) + len(self._leaving) < self._max_loaded and not any(
                r.name == runner.name for r in self._leaving
            ):
                return
            if len(staying) >= self._max_loaded:
                idle = victim([r for r in staying if not r.users])
                if idle is not None:
                    self._retire(idle)
            await self._changed.wait()

    def _retire(self, runner: Runner) -> None:
        """Nobody new joins it; it ends as soon as it can."""
        if self._runners.get(runner.name) is runner:
            del self._runners[runner.name]
            self._leaving.add(runner)
        runner.stop()
        self._changed.set()
