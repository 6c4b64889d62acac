"""The pool: one start for all who want it, keep-alive, room, crashes, and changing profiles."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.server.fakes import Clock, FakeEngine, Shop, settled, until
from vllama.errors import EngineFailed, ModelNotFound
from vllama.profile import Profile
from vllama.server.lifecycle.member import Unavailable
from vllama.server.lifecycle.plan import Plan, Start
from vllama.server.lifecycle.pool import Pool, PoolBusy


@asynccontextmanager
async def pool_of(shop: Shop, clock: Clock | None = None, **more: float) -> AsyncIterator[Pool]:
    pool = Pool(shop, timer=clock, **more)  # type: ignore[arg-type]
    try:
        yield pool
    finally:
        await asyncio.wait_for(pool.close(), 120)


async def test_all_who_ask_at_once_share_one_start() -> None:
    engine = FakeEngine()
    async with pool_of(Shop(engine)) as pool:

        async def use() -> str:
            async with pool.lease("m") as lease:
                return lease.endpoint.base_url

        urls = await asyncio.gather(*(use() for _ in range(20)))
    assert len(set(urls)) == 1
    assert engine.started == engine.stopped == ["m:best"]


async def test_names_of_one_model_share_its_engine() -> None:
    engine = FakeEngine()
    async with pool_of(Shop(engine)) as pool, pool.lease("m"), pool.lease("m:latest"):
        assert engine.started == ["m:best"]


async def test_an_engine_goes_when_its_keep_alive_is_over_and_not_before() -> None:
    engine, clock = FakeEngine(), Clock()
    async with pool_of(Shop(engine), clock, keep_alive_s=300) as pool:
        await pool.preload("m")
        await clock.advance(299)
        assert engine.stopped == []
        async with pool.lease("m"):
            await clock.advance(1000)
        await clock.advance(299)
        assert [one.expires_in_s for one in pool.loaded()] == [1]
        await clock.advance(1)
        await until(lambda: engine.stopped == ["m:best"])
        assert pool.loaded() == []


async def test_a_keep_alive_stays_until_another_is_given() -> None:
    clock = Clock()
    async with pool_of(Shop(FakeEngine()), clock, keep_alive_s=300) as pool:
        await pool.preload("m", keep_alive_s=60)
        await pool.preload("m")
        assert pool.loaded()[0].expires_in_s == 60
        await pool.preload("m", keep_alive_s=float("inf"))
        await clock.advance(1e9)
        assert pool.loaded()[0].expires_in_s == float("inf")


async def test_keep_alive_zero_lets_the_last_user_finish() -> None:
    engine = FakeEngine()
    async with pool_of(Shop(engine)) as pool:
        async with pool.lease("m", 0):
            async with pool.lease("m"):
                pass
            await settled()
            assert engine.stopped == []
        await until(lambda: engine.stopped == ["m:best"])


async def test_unload_waits_for_users_and_a_new_request_starts_a_new_engine() -> None:
    engine = FakeEngine()
    async with pool_of(Shop(engine), max_loaded=2) as pool:
        async with pool.lease("m"):
            pool.unload("m")
            await settled()
            assert engine.stopped == []
        await until(lambda: engine.stopped == ["m:best"])
        async with pool.lease("m"):
            assert engine.started == ["m:best"] * 2
        pool.unload("never-loaded")


async def test_a_start_that_fails_tells_all_who_wait_and_the_next_request_tries_again() -> None:
    engine = FakeEngine(failures=[EngineFailed("no memory")])
    async with pool_of(Shop(engine)) as pool:
        results = await asyncio.gather(
            *(pool.preload("m") for _ in range(3)), return_exceptions=True
        )
        assert [str(r) for r in results] == ["no memory"] * 3
        await pool.preload("m")
    assert engine.started == ["m:best"]


async def test_an_unknown_model_is_said_so_and_leaves_nothing() -> None:
    async with pool_of(Shop(FakeEngine(), unknown={"m"})) as pool:
        with pytest.raises(ModelNotFound):
            await pool.preload("m")
        assert pool.loaded() == []


async def test_the_least_recently_used_idle_model_makes_room() -> None:
    engine = FakeEngine()
    async with pool_of(Shop(engine), Clock(), max_loaded=2) as pool:
        clock = pool._timer
        assert isinstance(clock, Clock)
        for name in ("a", "b"):
            await pool.preload(name)
            await clock.advance(1)
        await pool.preload("a")
        await clock.advance(1)
        await pool.preload("c")
        assert engine.stopped == ["b:best"]
        assert {one.name for one in pool.loaded()} == {"a", "c"}


async def test_models_run_beside_each_other_only_as_far_as_memory_goes() -> None:
    engine = FakeEngine()
    async with pool_of(Shop(engine, need_bytes=40), max_loaded=9, budget_bytes=100) as pool:
        await pool.preload("a")
        await pool.preload("b")
        assert engine.stopped == []
        await pool.preload("c")
        assert engine.stopped == ["a:best"]


async def test_a_busy_model_gives_way_to_one_that_waits_and_comes_back_after_it() -> None:
    engine, clock = FakeEngine(), Clock()
    async with pool_of(Shop(engine), clock, max_loaded=1) as pool:
        async with AsyncExitStack() as busy:
            await busy.enter_async_context(pool.lease("a"))
            waiting = asyncio.ensure_future(pool.preload("b"))
            await until(lambda: pool.loading == 1)
            await clock.advance(3)
            again = asyncio.ensure_future(pool.preload("a"))
            await until(lambda: pool.loading == 2)
            assert engine.started == ["a:best"]
        await asyncio.wait_for(asyncio.gather(waiting, again), 120)
        assert engine.started == ["a:best", "b:best", "a:best"]


async def test_too_many_who_wait_for_a_start_are_sent_away_at_once() -> None:
    engine = FakeEngine(may_start=asyncio.Event())
    async with pool_of(Shop(engine), max_waiting=3) as pool:
        waiting = [asyncio.ensure_future(pool.preload("m")) for _ in range(3)]
        await until(lambda: engine.starting == 1)
        with pytest.raises(PoolBusy, match="maximum pending requests exceeded") as busy:
            await pool.preload("m")
        assert busy.value.retry_after_s > 0
        assert engine.may_start is not None
        engine.may_start.set()
        await asyncio.gather(*waiting)


async def test_no_more_requests_than_the_profile_takes_are_let_through() -> None:
    async with pool_of(Shop(FakeEngine(), options={"max_num_seqs": 4})) as pool:
        running = most = 0
        release = asyncio.Event()

        async def use() -> None:
            nonlocal running, most
            async with pool.lease("m"):
                running += 1
                most = max(most, running)
                await release.wait()
                running -= 1

        tasks = [asyncio.ensure_future(use()) for _ in range(20)]
        await until(lambda: running == 6)
        assert pool.loaded()[0].waiting == 14
        release.set()
        await asyncio.gather(*tasks)
        assert most == 6


async def test_who_leaves_the_queue_lets_the_next_one_through() -> None:
    async with pool_of(Shop(FakeEngine(), options={"max_num_seqs": 1})) as pool:
        async with AsyncExitStack() as users:
            for _ in range(3):
                await users.enter_async_context(pool.lease("m"))
            gone = asyncio.ensure_future(pool.preload("m"))
            stays = asyncio.ensure_future(pool.preload("m"))
            await until(lambda: pool.loaded()[0].waiting == 2)
            gone.cancel()
        await asyncio.wait_for(stays, 120)
        assert pool.loaded()[0].users == 0


async def test_a_client_with_many_requests_does_not_hold_up_one_with_a_single_request() -> None:
    async with pool_of(Shop(FakeEngine(), options={"max_num_seqs": 1})) as pool:
        order: list[str] = []

        async def use(client: str) -> None:
            async with pool.lease("m", client=client):
                order.append(client)

        async with AsyncExitStack() as users:
            for _ in range(3):
                await users.enter_async_context(pool.lease("m"))
            tasks = [asyncio.ensure_future(use("greedy")) for _ in range(10)]
            await until(lambda: pool.loaded()[0].waiting == 10)
            tasks.append(asyncio.ensure_future(use("modest")))
            await until(lambda: pool.loaded()[0].waiting == 11)
        await asyncio.gather(*tasks)
        assert order.index("modest") <= 3


async def test_a_crashed_engine_is_started_again_and_its_users_hear_why() -> None:
    engine, clock = FakeEngine(), Clock()
    async with pool_of(Shop(engine), clock) as pool, pool.lease("m") as lease:
        engine.lives[0].kill("CUDA error")
        death = await lease.lost(120)
        assert death is not None
        assert death.message == "CUDA error"
        async with pool.lease("m") as second:
            assert second.endpoint.base_url != lease.endpoint.base_url
    assert engine.started == engine.stopped == ["m:best"] * 2


async def test_a_model_that_keeps_crashing_is_parked_with_its_cause_while_others_go_on() -> None:
    engine, clock = FakeEngine(), Clock()
    async with pool_of(Shop(engine), clock, max_loaded=2) as pool:
        await pool.preload("m")
        for crash in range(3):
            engine.lives[crash].kill("Bus error")
            await until(lambda: len(engine.stopped) == crash + 1)  # noqa: B023
            await settled()
            await clock.advance(2)
            await until(lambda: len(engine.lives) == min(3, crash + 2))  # noqa: B023
        with pytest.raises(Unavailable, match=r"m keeps crashing .* Bus error") as error:
            await pool.preload("m")
        assert error.value.retry_after_s > 50
        await pool.preload("other")
        await clock.advance(61)
        await pool.preload("m")


def ladder(engine: FakeEngine) -> Plan:
    names = ("best", "safer", "default")
    return Plan(tuple(Start(engine, Profile(n, "fake", "m", {"x": n})) for n in names))


async def test_a_profile_that_no_longer_starts_falls_back_to_the_next_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = FakeEngine(failing={"best", "safer"})
    shop = Shop(engine, plans={"m": ladder(engine)})
    async with pool_of(shop) as pool, pool.lease("m") as lease:
        assert lease.profile.name == "default"
    assert "'best' no longer starts (best is too big); taking 'safer'" in caplog.text
    assert "taking 'default'" in caplog.text


async def test_a_profile_that_did_not_start_is_not_tried_again_first() -> None:
    engine = FakeEngine(failing={"best"})
    async with pool_of(Shop(engine, plans={"m": ladder(engine)})) as pool:
        await pool.preload("m")
        engine.failing.clear()
        pool.unload("m")
        await pool.preload("m")
    assert engine.started == ["m:safer", "m:safer"]


def retuned(shop: Shop) -> None:
    profile = Profile("best", "fake", "m", {"new": 1})
    shop.plans["m"] = Plan((Start(shop.engine, profile),), need_bytes=shop.need_bytes)


async def test_a_new_profile_is_changed_to_beside_the_old_one_when_memory_allows() -> None:
    shop = Shop(FakeEngine(), need_bytes=40)
    async with pool_of(shop, max_loaded=2, budget_bytes=100) as pool:
        async with pool.lease("m") as old:
            retuned(shop)
            assert await pool.renew("m")
            async with pool.lease("m") as new:
                assert new.profile.options == {"new": 1}
                assert not old.death.done()
        await until(lambda: shop.engine.stopped == ["m:best"])
        assert not await pool.renew("m")


async def test_without_memory_for_both_those_who_come_wait_for_the_new_one() -> None:
    shop = Shop(FakeEngine(), need_bytes=80)
    async with pool_of(shop, max_loaded=2, budget_bytes=100) as pool:
        async with AsyncExitStack() as users:
            await users.enter_async_context(pool.lease("m"))
            retuned(shop)
            assert await pool.renew("m")
            waiting = asyncio.ensure_future(pool.preload("m"))
            await until(lambda: pool.loading == 1)
            assert shop.engine.stopped == []
        await asyncio.wait_for(waiting, 120)
        assert pool.loaded()[0].profile.options == {"new": 1}


async def test_a_new_profile_that_does_not_start_leaves_the_old_one_in_place() -> None:
    shop = Shop(FakeEngine())
    async with pool_of(shop, max_loaded=2) as pool:
        await pool.preload("m")
        retuned(shop)
        shop.engine.failures.append(EngineFailed("no"))
        assert not await pool.renew("m")
        assert pool.loaded()[0].profile.options == {}


async def test_who_leaves_before_the_start_takes_the_start_along() -> None:
    engine = FakeEngine(may_start=asyncio.Event())
    async with pool_of(Shop(engine), max_loaded=1) as pool:
        first = asyncio.ensure_future(pool.preload("a"))
        await until(lambda: engine.starting == 1)
        second = asyncio.ensure_future(pool.preload("b"))
        await until(lambda: pool.loading == 2)
        second.cancel()
        assert engine.may_start is not None
        engine.may_start.set()
        await first
        await settled()
        assert [one.name for one in pool.loaded()] == ["a"]


async def test_closing_lets_those_under_way_finish_and_refuses_new_ones() -> None:
    engine = FakeEngine()
    pool = Pool(Shop(engine))
    async with AsyncExitStack() as users:
        await users.enter_async_context(pool.lease("m"))
        closing = asyncio.ensure_future(pool.close(drain_s=30))
        await settled()
        with pytest.raises(Unavailable, match="stopping"):
            await pool.preload("m")
        assert engine.stopped == []
    await asyncio.wait_for(closing, 120)
    assert engine.stopped == ["m:best"]


async def test_closing_while_an_engine_starts_leaves_nothing() -> None:
    engine = FakeEngine(may_start=asyncio.Event())
    pool = Pool(Shop(engine))
    waiting = asyncio.ensure_future(pool.preload("m"))
    await until(lambda: engine.starting == 1)
    await asyncio.wait_for(pool.close(), 120)
    with pytest.raises(EngineFailed, match="stopped"):
        await waiting
    assert engine.starting == 0
