"""A load by several processes: the same requests as by one, and nothing lost on the way."""

import asyncio
from collections import Counter
from dataclasses import replace

import psutil
import pytest

from tests.bench.serving import Scripted, completes, miscounts, scripted
from vllama.bench.crew import members, together
from vllama.bench.measurement import Run, Sample, summarize
from vllama.bench.rig import LiveSession
from vllama.bench.wire import USUAL, Client
from vllama.bench.workload import Workload
from vllama.errors import VllamaError

LOAD = Workload("w", prompt_tokens=20, output_tokens=8, concurrency=6, requests=24)
OPEN = replace(LOAD, rate_per_s=60.0, requests=None, duration_s=0.5)
CREW = Client(workers=3)


def prompts(server: Scripted) -> Counter[str]:
    return Counter(c.body["prompt"] for c in server.calls if c.body.get("max_tokens") == 8)


def crew_processes() -> list[psutil.Process]:
    return [
        p for p in psutil.Process().children() if any("vllama.bench.crew" in w for w in p.cmdline())
    ]


async def test_a_closed_loop_by_three_is_whole_and_exact() -> None:
    async with scripted(completes) as server:
        session = LiveSession(server.endpoint(), CREW)
        run = await session.observe(LOAD)
        session.close()
    shown = summarize(run)
    assert (shown.completed, shown.failed, miscounts(shown)) == (24, 0, [])
    assert server.most_in_flight == 6
    assert max(prompts(server).values()) == 1
    assert run.duration_s > 0
    assert not crew_processes()


async def test_an_open_loop_by_three_sends_what_one_would_send() -> None:
    seen, due = [], []
    for client in (CREW, Client(workers=0)):
        async with scripted(completes) as server:
            session = LiveSession(server.endpoint(), client)
            run = await session.observe(OPEN)
            session.close()
        measured = sorted(s.scheduled_s - run.start_s for s in run.samples if s.measured)
        due.append(measured)
        seen.append(prompts(server))
        assert not any(s.error for s in run.samples)
    assert due[0] == pytest.approx(due[1], abs=1e-6)
    assert len(seen[0] & seen[1]) >= len(due[0])


async def test_what_three_had_measured_before_a_call_off_is_kept() -> None:
    async with scripted(completes) as server:
        session = LiveSession(server.endpoint(), CREW)
        await session.warm_up(LOAD)
        task = asyncio.create_task(session.measure(replace(LOAD, requests=100_000)))
        await server.reached(200)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        session.close()
    assert session.cut_off is not None
    assert summarize(session.cut_off).completed > 0
    assert not crew_processes()


async def test_a_member_that_dies_is_no_result() -> None:
    async with scripted(completes) as server:
        session = LiveSession(server.endpoint(), CREW)
        await session.warm_up(LOAD)
        task = asyncio.create_task(session.measure(replace(LOAD, requests=100_000)))
        await server.reached(200)
        crew_processes()[0].kill()
        with pytest.raises(VllamaError, match="ended before its time"):
            await task
        session.close()
    assert not crew_processes()


def test_the_number_of_processes_goes_by_the_load_and_the_cores() -> None:
    def many(load: Workload, cores: int, client: Client = USUAL) -> int:
        return members(load, client, cores)

    assert many(LOAD, 16) == 0
    assert many(replace(LOAD, concurrency=1000), 16) == 8
    assert many(replace(LOAD, concurrency=1000), 8) == 4
    assert many(replace(LOAD, concurrency=1000), 2) == 0
    assert many(replace(LOAD, rate_per_s=200.0, output_tokens=200), 16) == 4
    assert many(LOAD, 2, CREW) == 3
    assert many(replace(LOAD, concurrency=2), 2, CREW) == 2


def test_shares_are_judged_in_the_time_that_they_have_in_common() -> None:
    def run(start_s: float, end_s: float) -> Run:
        sample = Sample(start_s, start_s, end_s, (end_s,), 1, 10)
        return Run((sample,), start_s, end_s, client={"busy": end_s})

    both = together([run(1.0, 5.0), run(2.0, 4.0)])
    assert (both.start_s, both.end_s, both.client["busy"]) == (2.0, 4.0, 5.0)
    apart = together([run(1.0, 2.0), run(3.0, 4.0)])
    assert (apart.start_s, apart.end_s) == (1.0, 4.0)
    assert together([]).duration_s == 0
