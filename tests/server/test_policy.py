"""The pure decisions: who must leave, how long to wait, whose turn it is."""

import asyncio

from tests.server.fakes import settled
from vllama.errors import EngineFailed
from vllama.server.lifecycle.room import Stay, decide
from vllama.server.lifecycle.standing import PARK_S, STRIKES, WINDOW_S, Standing
from vllama.server.lifecycle.turns import Turns

ERROR = EngineFailed("Bus error")


def stay(key: str, need: int = 10, users: int = 0, idle: float = 0.0, **more: bool) -> Stay:
    return Stay(key, need, users, idle, **more)


def evicted(*stays: Stay, need: int = 10, budget: int = 25, count: int = 9) -> str | None:
    verdict = decide(need, stays, budget_bytes=budget, max_loaded=count)
    return "fits" if verdict.fits else verdict.evict


def test_what_fits_by_memory_and_count_fits() -> None:
    assert evicted(stay("a")) == "fits"
    assert evicted(stay("a"), stay("b"), budget=0) == "fits"
    assert evicted(stay("a"), count=1) == "a"


def test_one_larger_than_all_memory_may_try_it_alone() -> None:
    assert evicted(need=1000) == "fits"


def test_the_idle_go_before_the_busy_and_the_oldest_before_the_newer() -> None:
    assert evicted(stay("new", idle=9), stay("old", idle=1)) == "old"
    assert evicted(stay("busy", users=1, idle=0), stay("idle", idle=9)) == "idle"


def test_one_that_is_to_stay_for_ever_goes_last() -> None:
    assert evicted(stay("pinned", idle=0, pinned=True), stay("b", idle=9)) == "b"
    assert evicted(stay("pinned", pinned=True), stay("b", users=1)) == "pinned"


def test_a_busy_one_that_has_just_come_may_stay() -> None:
    young = stay("a", users=1, settled=False)
    assert evicted(young, stay("b", users=1, settled=False)) is None


def test_while_one_is_leaving_no_other_is_sent_away() -> None:
    assert evicted(stay("a", leaving=True), stay("b")) is None


def test_a_first_crash_is_restarted_at_once_and_the_next_ones_later() -> None:
    standing = Standing()
    standing.strike(0.0, ERROR)
    assert standing.delay_s(0.0) == 0
    standing.strike(1.0, ERROR)
    assert standing.delay_s(1.0) == 1


def test_crashes_in_a_row_park_for_longer_and_longer() -> None:
    standing, now = Standing(), 0.0
    for expected in (PARK_S, 2 * PARK_S, 4 * PARK_S):
        for _ in range(STRIKES):
            standing.strike(now, ERROR)
        assert standing.parked_s(now) == expected
        now += expected
        assert standing.parked_s(now) == 0


def test_crashes_long_apart_are_no_pattern() -> None:
    standing = Standing()
    for i in range(10):
        standing.strike(i * (WINDOW_S + 1), ERROR)
    assert standing.parked_s(9 * (WINDOW_S + 1)) == 0


def test_a_long_life_wipes_the_record() -> None:
    standing = Standing()
    standing.strike(0.0, ERROR)
    standing.strike(1.0, ERROR)
    standing.settle(WINDOW_S)
    standing.strike(2.0, ERROR)
    assert standing.delay_s(2.0) == 0


async def test_turns_go_round_among_clients() -> None:
    turns, order = Turns(1), []
    await turns.take()

    async def wait(client: str) -> None:
        await turns.take(client)
        order.append(client)
        turns.give()

    tasks = [asyncio.ensure_future(wait(c)) for c in "aaabbc"]
    await settled()
    assert turns.waiting == 6
    turns.give()
    await asyncio.gather(*tasks)
    assert order == list("abcaba")


async def test_a_raised_limit_lets_the_waiting_in() -> None:
    turns = Turns(1)
    await turns.take()
    waiting = [asyncio.ensure_future(turns.take()) for _ in range(3)]
    await settled()
    turns.limit = 3
    await settled()
    assert [w.done() for w in waiting] == [True, True, False]
    turns.limit = 0
    await asyncio.gather(*waiting)
