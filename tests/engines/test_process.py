"""Children are watched while they live, and nothing of them outlives their owner."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path

import psutil
import pytest

from vllama.engines import process
from vllama.errors import EngineFailed, PortInUse

FAMILY = str(Path(__file__).with_name("family.py"))
OWNER = str(Path(__file__).with_name("owner.py"))
LIMIT_S = 5.0


def explain(log: Sequence[str]) -> EngineFailed:
    return EngineFailed(" / ".join(log), log=log)


def launched(*words: object) -> AbstractAsyncContextManager[process.Child]:
    return process.launch(
        [sys.executable, FAMILY, *map(str, words)],
        name="family",
        environment=dict(os.environ),
        explain=explain,
    )


def lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def eventually(condition: Callable[[], bool], limit_s: float) -> None:
    """Wait for what other processes do: no event tells of it."""
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


def left_after(pids: Sequence[int], limit_s: float = LIMIT_S) -> list[int]:
    """Those that still live when the limit is over; returns as soon as none does."""
    eventually(lambda: not any(lives(p) for p in pids), limit_s)
    return [p for p in pids if lives(p)]


def members(file: Path) -> list[int]:
    eventually(file.exists, 30)
    return [int(word) for word in file.read_text().split()]


async def up(child: process.Child) -> None:
    async def said() -> bool:
        return "up" in child.tail

    await process.wait_ready(child, said, stall_s=30, what="the family")


@contextmanager
def owned(file: Path, *words: str) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """A vllama of its own that runs a family; with the process number of the guard."""
    owner = subprocess.Popen(
        [sys.executable, OWNER, FAMILY, str(file), *words],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert owner.stdout is not None
        lines = iter(owner.stdout.readline, "")
        guard = next(int(line.split()[1]) for line in lines if line.startswith("guard"))
        members(file)
        yield owner, guard
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(owner.pid, signal.SIGKILL)
        owner.wait()
        if owner.stdout:
            owner.stdout.close()


async def test_leaving_stops_children_that_ignore_sigterm_and_those_that_left_the_session(
    tmp_path: Path,
) -> None:
    async with launched(tmp_path / "pids", "stubborn", "runaway") as child:
        await up(child)
        pids = members(tmp_path / "pids")
        assert set(pids) < set(child.pids)
    assert left_after(pids, 0.5) == []


async def test_a_polite_process_may_say_goodbye(tmp_path: Path) -> None:
    async with launched(tmp_path / "pids", "polite") as child:
        await up(child)
    assert "goodbye" in child.tail


async def test_a_deaf_process_is_killed_after_its_grace(tmp_path: Path) -> None:
    async with launched(tmp_path / "pids", "deaf") as child:
        await up(child)
    assert left_after(members(tmp_path / "pids"), 0.5) == []


async def test_an_exit_with_status_0_is_a_failure_with_the_last_words(tmp_path: Path) -> None:
    async with launched(tmp_path / "pids", "exit0") as child:
        failed = await asyncio.wait_for(child.ended(), 30)
    assert "RuntimeError: the last word / [the process ended: exit status 0]" in failed.message


async def test_a_killed_process_is_told_as_killed(tmp_path: Path) -> None:
    async with launched(tmp_path / "pids") as child:
        await up(child)
        os.kill(members(tmp_path / "pids")[0], signal.SIGKILL)
        failed = await asyncio.wait_for(child.ended(), 30)
    assert "[the process ended: killed by SIGKILL]" in failed.message


async def test_children_of_a_process_that_died_go_too(tmp_path: Path) -> None:
    async with launched(tmp_path / "pids", "stubborn", "runaway") as child:
        await up(child)
        pids = members(tmp_path / "pids")
        os.kill(pids[0], signal.SIGKILL)
        await asyncio.wait_for(child.ended(), 30)
        assert left_after(pids, 0.5) == []


async def test_silence_while_starting_is_a_timeout_and_leaves_nothing(tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    async with launched(tmp_path / "pids", "stubborn") as child:
        await up(child)
        with pytest.raises(EngineFailed, match="said nothing") as failed:
            await process.wait_ready(child, never, stall_s=0.2, what="the family")
    assert failed.value.kind == "timeout"
    assert left_after(members(tmp_path / "pids")) == []


async def test_a_cancelled_start_leaves_nothing_even_when_cancelled_twice(tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    async def start() -> None:
        async with launched(tmp_path / "pids", "stubborn", "deaf") as child:
            await process.wait_ready(child, never, stall_s=60, what="the family")

    task = asyncio.create_task(start())
    pids = await asyncio.to_thread(members, tmp_path / "pids")
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left_after(pids, 0.5) == []


async def test_cancelling_at_any_moment_of_the_launch_leaves_nothing(tmp_path: Path) -> None:
    for turns in (0, 1, 2, 5, 20):
        file = tmp_path / f"pids{turns}"

        async def start(file: Path = file) -> None:
            async with launched(file, "stubborn"):
                await asyncio.Event().wait()

        before = set(psutil.Process().children(recursive=True))
        task = asyncio.create_task(start())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        new = [p.pid for p in psutil.Process().children(recursive=True) if p not in before]
        assert await asyncio.to_thread(left_after, new) == []


@pytest.mark.parametrize("victims", ["owner", "outer", "inner", "owner and outer"])
def test_kill_9_of_vllama_or_of_a_guard_leaves_nothing(tmp_path: Path, victims: str) -> None:
    with owned(tmp_path / "pids", "stubborn", "runaway") as (owner, guard):
        inner = psutil.Process(guard).children()[0].pid
        pids = [guard, inner, *members(tmp_path / "pids")]
        for victim, pid in (("owner", owner.pid), ("outer", guard), ("inner", inner)):
            if victim in victims:
                os.kill(pid, signal.SIGKILL)
        assert left_after(pids) == []


def test_ctrl_c_reaches_the_child_as_a_polite_stop(tmp_path: Path) -> None:
    with owned(tmp_path / "pids", "polite", "stubborn") as (owner, guard):
        pids = [guard, *members(tmp_path / "pids")]
        os.killpg(owner.pid, signal.SIGINT)
        said, _ = owner.communicate(timeout=30)
        assert "goodbye" in said
        assert left_after(pids) == []


async def test_a_request_that_the_process_dies_of_is_told_as_its_death(tmp_path: Path) -> None:
    async with launched(tmp_path / "pids") as child:
        await up(child)

        async def deadly() -> None:
            os.kill(members(tmp_path / "pids")[0], signal.SIGKILL)
            raise EngineFailed("no answer", kind="hang")

        with pytest.raises(EngineFailed, match="killed by SIGKILL"):
            await child.unless_dead(deadly())


async def test_a_failed_request_of_a_living_process_is_told_as_it_is(tmp_path: Path) -> None:
    async with launched(tmp_path / "pids") as child:
        await up(child)

        async def refused() -> None:
            raise EngineFailed("400", kind="bad_model")

        with pytest.raises(EngineFailed, match="400"):
            await child.unless_dead(refused())


async def test_a_line_of_any_length_is_read_past(tmp_path: Path) -> None:
    script = "print('x' * 3_000_000); print('after', flush=True); import signal; signal.pause()"

    async def said() -> bool:
        return "after" in child.tail

    async with process.launch(
        [sys.executable, "-c", script], name="long", environment=dict(os.environ), explain=explain
    ) as child:
        await process.wait_ready(child, said, stall_s=30, what="it")


@pytest.fixture
async def taken_port() -> AsyncIterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


async def test_a_busy_port_names_its_holder_and_the_way_out(taken_port: int) -> None:
    with pytest.raises(PortInUse, match=f"in use by .*pid {os.getpid()}") as refused:
        process.check_port("127.0.0.1", taken_port)
    assert "--port" in refused.value.remedy


def test_a_free_port_is_free() -> None:
    process.check_port("127.0.0.1", process.free_port())
