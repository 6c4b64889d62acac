"""Which engines run: started on demand, shared, kept alive, evicted, and replaced when dead."""

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from vllama.engines.engine import Endpoint
from vllama.errors import EngineFailed, VllamaError
from vllama.profile import Profile
from vllama.server.lifecycle import room
from vllama.server.lifecycle.dormitory import Dormitory
from vllama.server.lifecycle.leasing import Leasing
from vllama.server.lifecycle.member import Member, Unavailable, parked
from vllama.server.lifecycle.night import Night
from vllama.server.lifecycle.plan import Choose, Plan
from vllama.server.lifecycle.runner import Lease, Runner
from vllama.server.lifecycle.standing import Standing
from vllama.server.lifecycle.timer import Timer
from vllama.server.lifecycle.trace import Deaf, Noter, Observer

log = logging.getLogger(__name__)
BUSY = "server busy, please try again.  maximum pending requests exceeded"
# A busy model that must make room for another may finish at least this much first.
RESIDENCY_S = 2.0


class PoolBusy(Unavailable):
    """More requests wait for an engine than may wait."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """One running model; `expires_in_s` is infinite for one that stays."""

    name: str
    endpoint: Endpoint
    profile: Profile
    expires_in_s: float
    users: int
    replicas: int = 1
    waiting: int = 0
    need_bytes: int = 0
    restarts: int = 0


class Pool:
    """The running engines, by model. It alone starts and stops them.

    `choose` says how to launch a model; `max_loaded` how many models run beside each other,
    `budget_bytes` in how much memory (0: do not count); `max_waiting` how many requests may
    wait for engines that are not ready, and how many for a turn on one model. Who has to make
    room sleeps in the `dormitory` if it can; by default nobody can.
    """

    def __init__(
        self,
        choose: Choose,
        *,
        keep_alive_s: float = 300.0,
        max_loaded: int = 1,
        budget_bytes: int = 0,
        max_waiting: int = 512,
        dormitory: Dormitory | None = None,
        timer: Timer | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._choose = choose
        self._keep_alive_s = keep_alive_s
        self._max_loaded = max(1, max_loaded)
        self._budget_bytes = budget_bytes
        self._max_waiting = max_waiting
        self._dormitory = dormitory or Dormitory()
        self._given_timer = timer
        self._runners: dict[str, Runner] = {}
        self._leaving: set[Runner] = set()
        self._tasks: dict[Runner, asyncio.Task[None]] = {}
        self._standings: dict[str, Standing] = {}
        self._entrance = asyncio.Lock()
        self._gate = asyncio.Lock()
        self._changed = asyncio.Event()
        self._closed = False
        self.loading = 0
        self.observer: Observer = observer or Deaf()
        self.shapes: Noter | None = None

    def lease(
        self,
        name: str,
        keep_alive_s: float | None = None,
        *,
        client: str = "",
        affinity: bytes = b"",
    ) -> AbstractAsyncContextManager[Lease]:
        """Use an engine of the model `name`, starting it if need be.

        `keep_alive_s` is how long it stays after its last user, from now on; None leaves it.
        `client` is who asks, for taking turns; `affinity` leads equal ones to one replica.

        Raises:
            PoolBusy: too many wait already.
            Unavailable: it keeps crashing and is left alone for a while.
            VllamaError: it cannot be started; all who waited for this start get the same.
        """
        return Leasing(self, name, keep_alive_s, client, affinity)

    def enter(self, name: str, keep_alive_s: float | None) -> Runner:
        """One more user of that model's engines, until `leave`."""
        if self._closed:
            raise Unavailable("vllama is stopping", "Ask again when it is back.")
        runner = self._runner(self._choose.key(name))
        runner.enter(keep_alive_s)
        return runner

    def leave(self, runner: Runner) -> None:
        """One user less."""
        runner.leave()
        self._changed.set()

    async def preload(self, name: str, keep_alive_s: float | None = None) -> None:
        """Start the engine of `name` now, as a request without work would."""
        async with self.lease(name, keep_alive_s):
            pass

    def unload(self, name: str) -> None:
        """Let the engine of `name` go now, or after its last user; nothing if there is none."""
        key = self._choose.key(name)
        for each in self._tasks:
            if each.key == key:
                each.sleeps_s = 0.0
        self._dormitory.drop(key)
        runner = self._runners.get(key)
        if runner is None:
            return
        runner.keep_alive_s = 0.0
        if not runner.users:
            self._retire(runner)

    def loaded(self) -> list[Loaded]:
        """The models that answer, longest remaining life first."""
        found = []
        for runner in self._runners.values():
            if runner.is_ready:
                first = runner.fleet.replicas[0]
                found.append(
                    Loaded(
                        runner.key, first.endpoint, first.profile, runner.expires_in_s,
                        runner.users, len(runner.fleet.replicas), runner.turns.waiting,
                        runner.plan.need_bytes if runner.plan else 0,
                        self._standing(runner.key).restarts,
                    )
                )  # fmt: skip
        return sorted(found, key=lambda one: -one.expires_in_s)

    async def renew(self, name: str) -> bool:
        """Change to the plan that `name` has now, without a failed request; whether it differs.

        The new engine starts beside the old one when memory allows; else those who come wait
        until the old one has finished what it had, and the new one is there.
        """
        key = self._choose.key(name)
        old = self._runners.get(key)
        if old is None or old.plan is None:
            return False
        plan = await asyncio.to_thread(self._choose.plan, key)
        if _digests(plan) == _digests(old.plan):
            return False
        if self._verdict(plan).fits:
            fresh = self._begin(key, plan)
            fresh.keep_alive_s = old.keep_alive_s
            fresh.enter(None)
            try:
                await fresh.fleet.answering()
            except VllamaError as error:
                log.error("%s: stays with its old profile: %s", key, error)
                self._retire(fresh)
                return False
            finally:
                fresh.leave()
            self._retire(old)
            self._runners[key] = fresh
        else:
            self._retire(old)
        log.info("%s: now with profile '%s'", key, plan.starts[0].profile.name)
        return True

    async def close(self, drain_s: float = 0.0) -> None:
        """Refuse new requests, let those under way finish for so long, stop every engine."""
        self._closed = True
        try:
            async with asyncio.timeout(drain_s):
                while any(runner.users for runner in self._tasks):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
        tasks = list(self._tasks.values())
        for task in tasks:
            if not task.cancelling():
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._dormitory.close()

    @property
    def _timer(self) -> Timer:
        return self._given_timer or asyncio.get_running_loop()

    @property
    def now_s(self) -> float:
        """The time that standings go by."""
        return self._timer.time()

    def running(self) -> list[Runner]:
        """The models whose engines answer now."""
        return [runner for runner in self._tasks if runner.is_ready]

    def asleep(self, key: str) -> int:
        """How many engines of that model sleep."""
        return sum(each.key == key for each in self._dormitory.sleepers)

    def standings(self) -> dict[str, Standing]:
        """How each model that ever ran has behaved."""
        return dict(self._standings)

    def left_alone(self) -> list[str]:
        """The models that are not started now because they keep failing."""
        return [key for key, each in self._standings.items() if each.parked_s(self.now_s)]

    def _standing(self, key: str) -> Standing:
        return self._standings.setdefault(key, Standing())

    def _runner(self, key: str) -> Runner:
        runner = self._runners.get(key)
        if runner is None:
            standing = self._standing(key)
            if standing.parked_s(self._timer.time()):
                raise parked(key, standing, self._timer.time())
            runner = self._begin(key)
            self._runners[key] = runner
        return runner

    def _begin(self, key: str, plan: Plan | None = None) -> Runner:
        runner = Runner(key, self._keep_alive_s, self._timer, self._retire)
        task = asyncio.create_task(self._run(runner, plan), name=f"engines of {key}")
        self._tasks[runner] = task
        return runner

    async def pend(self, runner: Runner, ready: Awaitable[None]) -> None:
        """Wait for an engine or a turn, as one of not too many."""
        waiting = runner.turns.waiting if runner.is_ready else self.loading
        if waiting >= self._max_waiting:
            if asyncio.iscoroutine(ready):
                ready.close()
            raise PoolBusy(BUSY, retry_after_s=RESIDENCY_S)
        if runner.is_ready:
            await ready
            return
        self.loading += 1
        try:
            await ready
        finally:
            self.loading -= 1

    async def _run(self, runner: Runner, given: Plan | None) -> None:
        stopped: VllamaError = EngineFailed(f"{runner.key}: the engine was stopped", kind="crash")
        try:
            # Those whose engines somebody else runs need no room and wait for nobody.
            plan = given
            if plan is None:
                plan = await asyncio.to_thread(self._choose.plan, runner.key)
            runner.plan = plan
            if plan.is_ours:
                async with self._entrance:
                    await self._make_room(runner, plan)
                    runner.admitted = True
                profiles = [start.profile for each in plan.members() for start in each]
                await self._dormitory.keep(runner.key, profiles)
            await self._keep_up(runner, plan)
        except VllamaError as error:
            stopped = error
        except OSError as error:
            stopped = EngineFailed(f"{runner.key}: {error}")
        finally:
            self._retire(runner)
            self._leaving.discard(runner)
            self._tasks.pop(runner, None)
            runner.end(stopped)
            self._changed.set()

    async def _keep_up(self, runner: Runner, plan: Plan) -> None:
        """Keep all replicas up until the runner is over, or the last of them has failed."""

        def changed() -> None:
            runner.changed()
            self._changed.set()

        gate = self._gate if plan.is_ours else None
        standing, timer = self._standing(runner.key), self._timer
        night = Night(runner.key, self._dormitory, standing, timer)
        members = [
            Member(runner.key, starts, runner.fleet, standing, timer, gate, changed, night)
            for starts in plan.members()
        ]
        tasks = {asyncio.create_task(member.keep_up()) for member in members}
        over = asyncio.create_task(runner.over.wait())
        try:
            left = set(tasks)
            while left and not over.done():
                done, _ = await asyncio.wait({*left, over}, return_when=asyncio.FIRST_COMPLETED)
                left -= done
                if not left:
                    for task in done - {over}:
                        task.result()
            if self._may_sleep(runner):
                night.fall(runner.sleeps_s)
                await asyncio.wait(left)
                if not runner.sleeps_s:
                    self._dormitory.drop(runner.key)
        finally:
            over.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.shield(asyncio.gather(*tasks, return_exceptions=True))

    def _may_sleep(self, runner: Runner) -> bool:
        """Not when it was told to go for good, or is replaced, or does not answer as a whole."""
        is_whole = runner.plan and len(runner.fleet.replicas) == len(runner.plan.members())
        others = [each for each in self._tasks if each.key == runner.key and each is not runner]
        return bool(runner.sleeps_s and is_whole) and not any(each.admitted for each in others)

    async def _make_room(self, runner: Runner, plan: Plan) -> None:
        """Wait until one more model may run, letting others go."""
        while True:
            self._changed.clear()
            if runner.over.is_set() or not runner.users:
                raise EngineFailed(f"{runner.key}: nobody waits for it any more")
            verdict = self._verdict(plan, besides=runner)
            if verdict.fits:
                return
            if verdict.evict is not None and verdict.evicts_sleeper:
                await self._dormitory.stop(verdict.evict, "another needs its memory")
                continue
            if verdict.evict is not None:
                leaver = self._runners[verdict.evict]
                leaver.sleeps_s = leaver.expires_in_s
                self._retire(leaver)
            await self._changed_or(RESIDENCY_S)

    async def _changed_or(self, delay_s: float) -> None:
        handle = self._timer.call_later(delay_s, self._changed.set)
        try:
            await self._changed.wait()
        finally:
            handle.cancel()

    def _verdict(self, plan: Plan, besides: Runner | None = None) -> room.Verdict:
        now_s = self._timer.time()
        awake = [
            each.stay(settled=now_s - each.ready_at_s >= RESIDENCY_S, leaving=each in self._leaving)
            for each in self._tasks
            if each is not besides and each.plan and each.plan.is_ours and each.admitted
        ]
        asleep = [
            each.stay()
            for each in self._dormitory.sleepers
            if besides is None or each.key != besides.key
        ]
        return room.decide(
            plan.whole_bytes, [*awake, *asleep],
            budget_bytes=self._budget_bytes, max_loaded=self._max_loaded,
        )  # fmt: skip

    def _retire(self, runner: Runner) -> None:
        """Nobody new joins it; it ends with its last user."""
        if self._runners.get(runner.key) is runner:
            del self._runners[runner.key]
        if runner in self._tasks:
            self._leaving.add(runner)
        runner.keep_alive_s = 0.0
        if not runner.users:
            runner.over.set()
        self._changed.set()


def _digests(plan: Plan) -> list[str]:
    return [start.profile.digest for start in plan.starts[:1]]
