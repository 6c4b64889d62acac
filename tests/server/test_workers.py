"""Several worker processes with one owner of the engines."""

import asyncio
import contextlib
import json
import signal
from pathlib import Path

import httpx
import psutil

from tests.server.fakes import until
from tests.server.faults import Simulated
from tests.server.running import Running, cmdline, left, serving, stop_now
from vllama.server.lifecycle.pool import BUSY
from vllama.settings import Settings


def workers(running: Running) -> list[psutil.Process]:
    return [p for p in running.family if "vllama.server.workers.worker" in cmdline(p)]


def engines(running: Running) -> list[psutil.Process]:
    return [
        p
        for p in running.family
        if "simulator_child" in cmdline(p) and "guard.py" not in cmdline(p)
    ]


async def test_all_workers_share_one_engine_and_one_queue(toy: Path, settings: Settings) -> None:
    simulated = Simulated(toy, settings)
    words = simulated.words(fault_start_s=2)
    limits = {"OLLAMA_MAX_QUEUE": "16"}
    async with serving(*words, "--workers", "2", settings=settings, environment=limits) as running:
        assert len(workers(running)) == 2
        answers = await asyncio.gather(
            *(running.chat(simulated.name, tokens=1, stream=False) for _ in range(20))
        )
        assert [a.status_code for a in answers].count(200) == 16
        refused = [a for a in answers if a.status_code == 503]
        assert len(refused) == 4
        assert refused[0].json() == {"error": BUSY}
        assert "retry-after" in refused[0].headers
        assert len(engines(running)) == 1
        async with httpx.AsyncClient(trust_env=False) as client:
            text = (await client.get(f"{running.url}/metrics")).text
        await until(
            lambda: simulated.name in httpx.get(f"{running.url}/api/ps", trust_env=False).text
        )
        counted = [x for x in text.splitlines() if x.startswith("vllama_requests_total{")]
        assert sum(float(x.split()[-1]) for x in counted if 'outcome="ok"' in x) == 16
        assert "vllm:" in text
        unknown = await running.chat("no-such", stream=False)
        assert unknown.status_code == 404
        family = running.family
        running.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(running.process.wait, 120) == 0
        assert not await left(family)


async def test_a_dead_engine_is_told_to_the_workers_client_and_replaced(
    toy: Path, settings: Settings
) -> None:
    simulated = Simulated(toy, settings)
    words = simulated.words(time_scale=20)
    async with serving(*words, "--workers", "2", "--preload", settings=settings) as running:
        async with running.stream(simulated.name, tokens=1000) as response:
            lines = response.aiter_lines()
            await anext(lines)
            stop_now(engines(running)[0])
            rest = [line async for line in lines]
        assert "error" in json.loads(rest[-1])
        assert (await running.chat(simulated.name, tokens=1, stream=False)).status_code == 200


async def test_a_dead_worker_is_replaced_and_what_it_had_comes_back(
    toy: Path, settings: Settings
) -> None:
    simulated = Simulated(toy, settings)
    async with serving(
        *simulated.words(), "--workers", "2", "--preload", settings=settings
    ) as running:
        first = workers(running)
        for each in first:
            stop_now(each)
        await until(lambda: len({p.pid for p in workers(running)} - {p.pid for p in first}) == 2)
        async with asyncio.timeout(120):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    answer = await running.chat(simulated.name, tokens=1, stream=False)
                    break
        assert answer.status_code == 200
        assert len(engines(running)) == 1


async def test_kill_9_of_the_owner_takes_workers_and_engines_along(
    toy: Path, settings: Settings
) -> None:
    simulated = Simulated(toy, settings)
    async with serving(
        *simulated.words(), "--workers", "2", "--preload", settings=settings
    ) as running:
        family = running.family
        assert len(family) >= 4
        running.process.kill()
        assert not await left(family)


async def test_every_worker_knows_that_a_model_is_left_alone(toy: Path, settings: Settings) -> None:
    simulated = Simulated(toy, settings)
    words = simulated.words(fault_crash_after_tokens=1)
    async with serving(*words, "--workers", "2", settings=settings) as running:

        def health(path: str) -> tuple[int, str]:
            # A connection stays with one worker: new ones meet both.
            answer = httpx.get(f"{running.url}{path}", trust_env=False, timeout=60)
            return answer.status_code, answer.text

        assert await asyncio.to_thread(health, "/readyz") == (200, "ok")
        for _ in range(3):
            answer = await running.chat(simulated.name, tokens=4, stream=False)
            assert answer.status_code in (500, 503)
        told = 503, "models that keep failing and are left alone: 1"
        await until(lambda: all(health("/readyz") == told for _ in range(8)))
        assert await asyncio.to_thread(health, "/livez") == (200, "ok")
