"""Engines that sleep instead of being stopped: who may, who is woken, and who is not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from tests.server.fakes import Clock, FakeEngine, Shop, settled, until
from vllama.profile import Profile
from vllama.server.lifecycle import beds
from vllama.server.lifecycle.dormitory import LOOK_S, Dormitory
from vllama.server.lifecycle.plan import Plan, Start
from vllama.server.lifecycle.pool import Pool
from vllama.server.lifecycle.room import Stay, decide


@dataclass
class Light:
    """A sleep that a test decides."""

    host_bytes: float = 10.0
    rest_bytes: int = 1
    falls: bool = True
    wakes: bool = True
    calls: list[str] = field(default_factory=list)

    async def fall_asleep(self) -> bool:
        self.calls.append("sleep")
        return self.falls

    async def wake(self) -> bool:
        self.calls.append("wake")
        return self.wakes


@dataclass
class Host:
    """The host's memory."""

    free_bytes: float = 100.0

    def __call__(self) -> float:
        return self.free_bytes


@asynccontextmanager
async def bedroom(
    shop: Shop, host: Host | None = None, clock: Clock | None = None, **more: int
) -> AsyncIterator[Pool]:
    """A pool whose engines may sleep; nothing runs when it is closed."""
    dormitory = Dormitory(host or Host(), reserve_bytes=20)
    pool = Pool(shop, timer=clock, dormitory=dormitory, **{"max_loaded": 1, **more})  # type: ignore[arg-type]
    try:
        yield pool
    finally:
        await asyncio.wait_for(pool.close(), 120)
        assert sorted(shop.engine.stopped) == sorted(shop.engine.started)


@dataclass(frozen=True)
class Old:
    """A sleeper of the policy's tests."""

    name: str
    since_s: float
    host_bytes: float = 10.0


@pytest.mark.parametrize(
    ("host_bytes", "free_bytes", "stopped"),
    [
        (10, 30, []),
        (10, 29, ["old"]),
        (25, 30, ["old", "new"]),
        (31, 30, None),
        (float("inf"), 1e12, None),
    ],
)
def test_one_more_sleeps_if_memory_is_left_or_those_make_room_who_slept_longest(
    host_bytes: float, free_bytes: float, stopped: list[str] | None
) -> None:
    sleepers = [Old("new", 9), Old("old", 1)]
    found = beds.make(host_bytes, sleepers, free_bytes=free_bytes, reserve_bytes=20)
    assert (None if found is None else [each.name for each in found]) == stopped


def test_when_the_host_runs_short_the_one_that_slept_longest_goes() -> None:
    sleepers = [Old("new", 9), Old("old", 1)]
    assert beds.relieve(sleepers, free_bytes=20, reserve_bytes=20) is None
    goes = beds.relieve(sleepers, free_bytes=19, reserve_bytes=20)
    assert goes is not None
    assert goes.name == "old"
    assert beds.relieve([], free_bytes=0, reserve_bytes=20) is None


def stay(key: str, need: int = 10, users: int = 0, idle: float = 0.0, **more: bool) -> Stay:
    return Stay(key, need, users, idle, **more)


@pytest.mark.parametrize(
    ("stays", "told"),
    [
        ([stay("a"), stay("s", 1, asleep=True)], "fits"),
        ([stay("a"), stay("s", 6, asleep=True)], "a"),
        ([stay("a", users=1), stay("s", 6, asleep=True)], "s asleep"),
        ([stay("a", 20, users=1), stay("s", 6, asleep=True)], "a"),
        ([stay("new", 12, idle=9, asleep=True), stay("old", 12, asleep=True)], "old asleep"),
        ([stay("a", 20), stay("s", 6, asleep=True, leaving=True)], "nobody yet"),
    ],
)
def test_who_sleeps_takes_a_rest_of_memory_and_goes_before_the_busy(
    stays: list[Stay], told: str
) -> None:
    verdict = decide(10, stays, budget_bytes=25, max_loaded=2)
    said = f"{verdict.evict or 'nobody yet'}{' asleep' if verdict.evicts_sleeper else ''}"
    assert ("fits" if verdict.fits else said) == told


def test_who_sleeps_does_not_count_among_those_loaded() -> None:
    sleepers = [stay("s", 0, asleep=True), stay("t", 0, asleep=True)]
    assert decide(10, sleepers, budget_bytes=0, max_loaded=1).fits


async def test_models_asked_for_in_turns_are_started_once_and_then_woken() -> None:
    engine = FakeEngine(sleep=Light())
    async with bedroom(Shop(engine)) as pool:
        for name in ("a", "b", "a", "b"):
            async with pool.lease(name) as lease:
                assert lease.endpoint.model == name
                assert [one.name for one in pool.loaded()] == [name]
        assert engine.started == ["a:best", "b:best"]
        assert engine.stopped == []
        assert (pool.asleep("a"), pool.asleep("b")) == (1, 0)
        kept = pool.standings()["a"]
        assert (kept.sleeps, kept.wakes, kept.failed_wakes, kept.restarts) == (2, 1, 0, 0)


async def test_without_room_in_the_host_an_engine_is_stopped() -> None:
    engine = FakeEngine(sleep=Light())
    async with bedroom(Shop(engine), Host(29)) as pool:
        await pool.preload("a")
        await pool.preload("b")
        assert engine.stopped == ["a:best"]


async def test_an_engine_that_cannot_sleep_or_does_not_is_stopped() -> None:
    for engine in (FakeEngine(), FakeEngine(sleep=Light(falls=False))):
        async with bedroom(Shop(engine)) as pool:
            await pool.preload("a")
            await pool.preload("b")
            assert engine.stopped == ["a:best"]


async def test_nobody_sleeps_where_it_is_switched_off() -> None:
    light = Light()
    pool = Pool(Shop(FakeEngine(sleep=light)), max_loaded=1)
    await pool.preload("a")
    await pool.preload("b")
    await pool.close()
    assert light.calls == []


async def test_a_keep_alive_goes_on_in_sleep_and_its_end_stops_the_engine() -> None:
    engine, clock = FakeEngine(sleep=Light()), Clock()
    async with bedroom(Shop(engine), clock=clock) as pool:
        await pool.preload("a", keep_alive_s=60)
        await clock.advance(50)
        await pool.preload("b", keep_alive_s=float("inf"))
        await clock.advance(9)
        assert pool.asleep("a") == 1
        await clock.advance(2)
        await until(lambda: engine.stopped == ["a:best"])
        assert pool.asleep("a") == 0


async def test_one_that_is_to_stay_for_ever_sleeps_for_ever() -> None:
    engine, clock = FakeEngine(sleep=Light()), Clock()
    async with bedroom(Shop(engine), clock=clock) as pool:
        await pool.preload("a", keep_alive_s=float("inf"))
        await pool.preload("b", keep_alive_s=float("inf"))
        await clock.advance(1e6)
        assert pool.asleep("a") == 1


async def test_unloading_stops_a_sleeper() -> None:
    engine = FakeEngine(sleep=Light())
    async with bedroom(Shop(engine)) as pool:
        await pool.preload("a")
        await pool.preload("b")
        pool.unload("a")
        await until(lambda: engine.stopped == ["a:best"])
        assert pool.asleep("a") == 0


async def test_keep_alive_zero_stops_and_does_not_send_to_sleep() -> None:
    light = Light()
    engine = FakeEngine(sleep=light)
    async with bedroom(Shop(engine)) as pool:
        await pool.preload("a", keep_alive_s=0)
        await pool.preload("b")
        assert engine.stopped == ["a:best"]
        assert light.calls == []


async def test_a_sleeper_that_dies_is_gone_and_the_next_request_starts_it() -> None:
    engine = FakeEngine(sleep=Light())
    async with bedroom(Shop(engine)) as pool:
        await pool.preload("a")
        await pool.preload("b")
        engine.lives[0].kill("Bus error")
        await until(lambda: pool.asleep("a") == 0)
        await pool.preload("a")
        assert engine.started == ["a:best", "b:best", "a:best"]


async def test_a_sleeper_that_does_not_wake_is_stopped_and_started_again() -> None:
    engine = FakeEngine(sleep=Light(wakes=False))
    async with bedroom(Shop(engine)) as pool:
        for name in ("a", "b", "a"):
            await pool.preload(name)
        assert engine.started == ["a:best", "b:best", "a:best"]
        assert engine.stopped == ["a:best"]
        assert pool.standings()["a"].failed_wakes == 1


async def test_when_others_need_the_hosts_memory_sleepers_are_stopped_one_after_the_other() -> None:
    engine, host, clock = FakeEngine(sleep=Light()), Host(), Clock()
    async with bedroom(Shop(engine), host, clock) as pool:
        for name in ("a", "b", "c"):
            await pool.preload(name)
            await clock.advance(1)
        host.free_bytes = 15
        await clock.advance(LOOK_S)
        await until(lambda: engine.stopped == ["a:best"])
        host.free_bytes = 25
        await clock.advance(LOOK_S)
        await settled()
        assert pool.asleep("b") == 1


async def test_the_rest_that_a_sleeper_keeps_counts_and_it_goes_when_that_is_too_much() -> None:
    engine = FakeEngine(sleep=Light(rest_bytes=30))
    async with bedroom(Shop(engine, need_bytes=80), max_loaded=9, budget_bytes=100) as pool:
        await pool.preload("a")
        await pool.preload("b")
        assert engine.stopped == ["a:best"]


async def test_a_busy_one_finishes_sleeps_and_is_woken_for_those_who_came_meanwhile() -> None:
    engine, clock = FakeEngine(sleep=Light()), Clock()
    async with bedroom(Shop(engine), clock=clock) as pool:
        async with AsyncExitStack() as busy:
            await busy.enter_async_context(pool.lease("a"))
            waiting = asyncio.ensure_future(pool.preload("b"))
            await until(lambda: pool.loading == 1)
            await clock.advance(3)
            again = asyncio.ensure_future(pool.preload("a"))
            await until(lambda: pool.loading == 2)
            assert pool.asleep("a") == 0
        await asyncio.wait_for(asyncio.gather(waiting, again), 120)
        assert engine.started == ["a:best", "b:best"]
        assert pool.standings()["a"].wakes == 1


async def test_a_sleeper_with_an_older_profile_is_not_woken() -> None:
    engine = FakeEngine(sleep=Light())
    shop = Shop(engine)
    async with bedroom(shop) as pool:
        await pool.preload("a")
        await pool.preload("b")
        changed = Profile("best", "fake", "a", {"new": 1})
        shop.plans["a"] = Plan((Start(engine, changed),))
        async with pool.lease("a") as lease:
            assert lease.profile == changed
        assert engine.started == ["a:best", "b:best", "a:best"]
        assert engine.stopped == ["a:best"]


async def test_all_replicas_sleep_and_each_is_woken() -> None:
    engine = FakeEngine(sleep=Light())
    shop = Shop(engine)
    one = shop.plan("a")
    shop.plans["a"] = replace(one, replicas=({"GPU": "0"}, {"GPU": "1"}))
    async with bedroom(shop) as pool:
        await pool.preload("a")
        await until(lambda: pool.loaded()[0].replicas == 2)
        await pool.preload("b")
        assert pool.asleep("a") == 2
        await pool.preload("a")
        await until(lambda: pool.loaded()[0].replicas == 2)
        assert engine.started == ["a:best", "a:best", "b:best"]


async def test_closing_while_an_engine_falls_asleep_leaves_nothing() -> None:
    class Slow(Light):
        async def fall_asleep(self) -> bool:
            self.calls.append("sleep")
            await asyncio.Event().wait()
            return True

    light = Slow()
    engine = FakeEngine(sleep=light)
    async with bedroom(Shop(engine)) as pool:
        await pool.preload("a")
        waiting = asyncio.ensure_future(pool.preload("b"))
        await until(lambda: light.calls == ["sleep"])
    assert isinstance((await asyncio.gather(waiting, return_exceptions=True))[0], Exception)
