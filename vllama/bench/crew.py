"""A load by several processes: each a share of the lanes or of the arrivals, put together after.

A member is `python -m vllama.bench.crew`: a task on its stdin, a run on its stdout. What it
has not yet told when its stdin ends it tells at once: so nothing measured is lost.
"""

import asyncio
import math
import os
import pickle
import signal
import struct
import sys
import threading
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from vllama.bench.dialect import Dialect
from vllama.bench.lag import quiet_collector, watched_clock
from vllama.bench.load import ClosedLoop
from vllama.bench.measurement import Run, worst
from vllama.bench.open_loop import OpenLoop, duration_s
from vllama.bench.prompts import Prompts
from vllama.bench.requests import WHOLE, Requests, Share
from vllama.bench.wire import Choice, Client, wire
from vllama.bench.workload import Workload
from vllama.errors import VllamaError

# What one process carries with ease: a third of what it could.
_LANES = 128
_CHUNKS_PER_S = 10_000.0
_HEAD_START_S = 0.05
_LAST_WORDS_S = 10.0
_SIZE = struct.Struct("!Q")
_STDIN = 0


@dataclass(frozen=True, slots=True)
class Task:
    """All that a member needs to know."""

    base_url: str
    choice: Choice
    dialect: Dialect
    prompts: Prompts
    workload: Workload
    share: Share = WHOLE


def members(workload: Workload, client: Client, cores: int) -> int:
    """How many processes this load wants; 0 when this one will do."""
    if client.workers is not None:
        return min(client.workers, workload.concurrency if _is_closed(workload) else 64)
    lanes = workload.concurrency / _LANES
    rate = (workload.rate_per_s or 0.0) * max(1, workload.output_tokens) / _CHUNKS_PER_S
    wanted = min(math.ceil(lanes if _is_closed(workload) else rate), max(1, cores // 2))
    return wanted if wanted > 1 else 0


class Crew:
    """`of` processes that load together. Made like the loops: `run`, and `result` so far."""

    def __init__(self, task: Task, of: int) -> None:
        self._tasks = [replace(task, share=Share(number, of)) for number in range(of)]
        self._runs: list[Run] = []

    async def run(self) -> Run:
        """The whole load.

        Raises:
            VllamaError: a member died.
        """
        processes = await asyncio.gather(*(_spawned() for _ in self._tasks))
        try:
            for process, task in zip(processes, self._tasks, strict=True):
                _tell(process, task)
            await asyncio.gather(*(_heard(p) for p in processes))
            begin_s = perf_counter() + _HEAD_START_S
            for process in processes:
                _tell(process, begin_s)
            self._runs = await asyncio.gather(*(_heard(p) for p in processes))
        except asyncio.CancelledError:
            self._runs = await _last_words(processes)
            raise
        finally:
            await _dismissed(processes)
        return self.result()

    def result(self) -> Run:
        """What has been measured so far, in the window that all shares have in common."""
        return together(self._runs)


def together(runs: Sequence[Run]) -> Run:
    """Shares of one load as one run."""
    measured = [run for run in runs if any(s.measured for s in run.samples)] or list(runs)
    samples = tuple(s for run in runs for s in run.samples)
    if not measured:
        return Run((), 0.0, 0.0)
    start_s, end_s = max(r.start_s for r in measured), min(r.end_s for r in measured)
    if end_s <= start_s:
        start_s, end_s = min(r.start_s for r in measured), max(r.end_s for r in measured)
    client = {**worst(runs), "processes": len(runs)}
    return Run(samples, start_s, end_s, client=client, said=measured[0].said)


def _is_closed(workload: Workload) -> bool:
    return workload.rate_per_s is None


async def _spawned() -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "vllama.bench.crew", stdin=PIPE, stdout=PIPE, limit=2**30
    )


def _tell(process: Process, message: object) -> None:
    assert process.stdin is not None
    data = pickle.dumps(message)
    process.stdin.write(_SIZE.pack(len(data)) + data)


async def _heard(process: Process) -> Run:
    assert process.stdout is not None
    try:
        (size,) = _SIZE.unpack(await process.stdout.readexactly(_SIZE.size))
        # Our own child's words: as safe as our own memory.
        told: Run = pickle.loads(await process.stdout.readexactly(size))
    except asyncio.IncompleteReadError as error:
        raise VllamaError(
            "a process of the load generator ended before its time",
            "Its last words are above; --workers 0 loads from this process.",
        ) from error
    return told


async def _last_words(processes: Sequence[Process]) -> list[Run]:
    for process in processes:
        if process.stdin is not None:
            process.stdin.close()
    hearing = [asyncio.create_task(_heard(p)) for p in processes]
    done, late = await asyncio.wait(hearing, timeout=_LAST_WORDS_S)
    for task in late:
        task.cancel()
    told = [task.result() for task in done if task.exception() is None]
    return [run for run in told if isinstance(run, Run)]


async def _dismissed(processes: Sequence[Process]) -> None:
    for process in processes:
        if process.stdin is not None:
            process.stdin.close()
        if process.returncode is None:
            process.kill()
    await asyncio.gather(*(p.wait() for p in processes))


# In the member's process


def share_of(workload: Workload, share: Share) -> Workload:
    """The lanes and requests of one member of a closed loop."""
    goal = workload.request_goal
    return replace(
        workload,
        concurrency=_part(workload.concurrency, share),
        requests=None if goal is None else _part(goal, share),
    )


def _part(whole: int, share: Share) -> int:
    return max(1, len(range(share.number, whole, share.of)))


def _loop(task: Task) -> tuple[Requests, ClosedLoop | OpenLoop]:
    pool = wire(task.base_url, task.choice)
    load, share = task.workload, task.share
    if load.rate_per_s is not None:
        expected = int(2.2 * load.rate_per_s * duration_s(load) / share.of)
        requests = Requests(pool, task.dialect, task.prompts, load, expected, share)
        return requests, OpenLoop(requests, load, share)
    mine = share_of(load, share)
    expected = (mine.request_goal or 0) + 2 * mine.concurrency
    requests = Requests(pool, task.dialect, task.prompts, load, expected, share)
    return requests, ClosedLoop(requests, mine)


async def _work(task: Task, over: asyncio.Event) -> Run:
    requests, loop = _loop(task)
    if isinstance(loop, ClosedLoop):
        await requests.pool.open(task.workload.concurrency // task.share.of)
    _say(None)
    begin_s = await asyncio.to_thread(_read)
    if not isinstance(begin_s, float):
        return loop.result()
    threading.Thread(target=_watch, args=(asyncio.get_running_loop(), over), daemon=True).start()
    with quiet_collector():
        async with watched_clock() as probe:
            working = asyncio.create_task(
                loop.run(begin_s) if isinstance(loop, OpenLoop) else loop.run()
            )
            stopping = asyncio.create_task(over.wait())
            await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
            working.cancel()
            stopping.cancel()
            await asyncio.gather(working, stopping, return_exceptions=True)
    run = loop.result() if working.cancelled() else working.result()
    requests.pool.close()
    return replace(run, client=probe.figures())


def _watch(loop: asyncio.AbstractEventLoop, over: asyncio.Event) -> None:
    """The end of stdin is the end of the work."""
    os.read(_STDIN, 1)
    loop.call_soon_threadsafe(over.set)


def _read() -> object:
    # Not by `sys.stdin`, whose lock the watching thread would hold for ever.
    head = _exactly(_SIZE.size)
    return None if head is None else pickle.loads(_exactly(_SIZE.unpack(head)[0]) or b"")


def _exactly(size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        more = os.read(_STDIN, size - len(data))
        if not more:
            return None
        data += more
    return data


def _say(message: object) -> None:
    data = pickle.dumps(message)
    sys.stdout.buffer.write(_SIZE.pack(len(data)) + data)
    sys.stdout.buffer.flush()


async def _member() -> None:
    task = _read()
    if isinstance(task, Task):
        _say(await _work(task, asyncio.Event()))


def main() -> None:
    """Be a member: Ctrl-C is for the one who waits for us."""
    from vllama.bench.wire import run_fast

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run_fast(_member())


if __name__ == "__main__":
    # As a module of its own name, so that what is pickled here is known there.
    from vllama.bench import crew

    crew.main()
