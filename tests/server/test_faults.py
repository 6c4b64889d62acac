"""Faults of engines, clients and the machine: what the client sees, and that nothing is left.

Run alone by `make test-faults`. A real llama.cpp where its own behaviour matters, the
simulator where a fault has to come at an exact moment.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.server.fakes import FakeEngine, Shop, until
from tests.server.running import Running, chat, left, serving, stop_now
from vllama.engines.process import free_port
from vllama.errors import EngineFailed
from vllama.profile import Profile
from vllama.server.pool import BUSY, Pool
from vllama.settings import Settings
from vllama.shelf import Shelf

# The simulator answers a word every few hundredths of a second with this.
SLOW = {"time_scale": 20}


@pytest.fixture
def simulated(toy: Path, settings: Settings) -> "Simulated":
    return Simulated(toy, settings)


class Simulated:
    """Serves the toy's name with the simulator and its faults."""

    def __init__(self, toy: Path, settings: Settings) -> None:
        self.toy, self.settings = toy, settings

    def words(self, **options: str | int | float) -> list[str]:
        name = str(self.toy.resolve())
        Shelf(self.settings.home / "profiles").put(Profile("best", "simulator", name, options))
        return [name]

    @property
    def name(self) -> str:
        return self.toy.name


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


async def served_again(running: Running, model: str) -> None:
    answer = await running.chat(model, stream=False)
    assert answer.status_code == 200, answer.text


async def test_killed_before_the_first_token_is_answered_by_a_new_engine(
    simulated: Simulated,
) -> None:
    words = simulated.words(time_scale=100)
    async with serving(*words, "--preload", settings=simulated.settings) as running:
        first = running.engine
        asking = asyncio.ensure_future(running.chat(simulated.name, tokens=2))
        await until(lambda: bool(first.net_connections("tcp")) and established(first))
        stop_now(first)
        answer = await asking
        assert answer.status_code == 200
        assert lines(answer.text)[-1]["done"] is True
        assert "the engine is gone" in running.text


def established(process: psutil.Process) -> bool:
    return any(c.status == psutil.CONN_ESTABLISHED for c in process.net_connections("tcp"))


@pytest.mark.llamacpp
async def test_killed_in_mid_stream_ends_it_with_an_error_and_service_is_back(
    toy: Path, settings: Settings
) -> None:
    async with serving(str(toy), "--preload", settings=settings) as running:
        async with running.stream(toy.name, tokens=3000) as response:
            each = response.aiter_lines()
            await anext(each)
            stop_now(running.engine)
            rest = [line async for line in each]
        assert "error" in json.loads(rest[-1])
        assert not json.loads(rest[-1]).get("done")
        await served_again(running, toy.name)


@pytest.mark.llamacpp
async def test_killed_while_idle_is_started_again_before_anybody_asks(
    toy: Path, settings: Settings
) -> None:
    async with serving(str(toy), "--preload", settings=settings) as running:
        first = running.engine
        stop_now(first)
        await until(lambda: any(p.pid != first.pid for p in leaves(running)))
        await served_again(running, toy.name)


def leaves(running: Running) -> list[psutil.Process]:
    with contextlib.suppress(AssertionError, psutil.Error):
        return [running.engine]
    return []


async def test_killed_while_loading_falls_back_and_says_so(simulated: Simulated) -> None:
    words = simulated.words(fault_start_s=60)
    async with serving(*words, settings=simulated.settings) as running:
        asking = asyncio.ensure_future(running.chat(simulated.name, stream=False))
        await until(lambda: bool(leaves(running)))
        stop_now(running.engine)
        assert (await asking).status_code == 200
        assert "profile 'best' no longer starts" in running.text


async def test_a_stopped_engine_is_noticed_and_replaced(simulated: Simulated) -> None:
    words = simulated.words(**SLOW)
    async with serving(*words, "--preload", settings=simulated.settings) as running:
        async with running.stream(simulated.name, tokens=1000) as response:
            each = response.aiter_lines()
            await anext(each)
            running.engine.send_signal(signal.SIGSTOP)
            rest = [line async for line in each]
        assert "SIGSTOP" in str(json.loads(rest[-1])["error"])
        await served_again(running, simulated.name)


async def test_an_engine_that_ignores_sigterm_is_gone_all_the_same(simulated: Simulated) -> None:
    words = simulated.words(fault_ignore_sigterm=True)
    async with serving(*words, "--preload", settings=simulated.settings) as running:
        family = running.family
        running.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(running.process.wait, 120) == 0
        assert not await left(family)


async def test_more_requests_than_may_wait_for_a_load_are_sent_away(simulated: Simulated) -> None:
    words = simulated.words(fault_start_s=4)
    limits = {"OLLAMA_MAX_QUEUE": "32"}
    async with serving(*words, settings=simulated.settings, environment=limits) as running:
        body = chat(simulated.name, 1, stream=False)
        async with httpx.AsyncClient(trust_env=False, timeout=120) as client:
            posts = [client.post(f"{running.url}/api/chat", json=body) for _ in range(40)]
            answers = await asyncio.gather(*posts)
        refused = [a for a in answers if a.status_code == 503]
        assert [a.status_code for a in answers].count(200) == 32
        assert len(refused) == 8
        assert all(a.json() == {"error": BUSY} for a in refused)
        assert all(int(a.headers["retry-after"]) >= 1 for a in refused)


@pytest.mark.llamacpp
async def test_two_models_that_do_not_fit_together_are_served_in_turns(
    toy: Path, toy_embedder: Path, settings: Settings
) -> None:
    limits = {"OLLAMA_MAX_LOADED_MODELS": "1"}
    async with (
        serving(str(toy), str(toy_embedder), settings=settings, environment=limits) as running,
        httpx.AsyncClient(trust_env=False, timeout=300) as client,
    ):
        for _ in range(2):
            await served_again(running, toy.name)
            asked = {"model": toy_embedder.name, "input": "hi"}
            answer = await client.post(f"{running.url}/api/embed", json=asked)
            assert answer.status_code == 200, answer.text
            loaded = (await client.get(f"{running.url}/api/ps")).json()["models"]
            assert len(loaded) == 1
            assert len(leaves(running)) == 1


@pytest.mark.llamacpp
async def test_a_client_that_closes_its_half_is_taken_to_have_left(
    toy: Path, settings: Settings
) -> None:
    async with serving(str(toy), "--preload", settings=settings) as running:
        host, port = running.url.removeprefix("http://").split(":")
        body = json.dumps(chat(toy.name, 3000)).encode()
        with socket.create_connection((host, int(port))) as raw:
            head = b"POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
            raw.sendall(head % len(body) + body)
            assert await asyncio.to_thread(raw.recv, 100)
            raw.shutdown(socket.SHUT_WR)
            raw.settimeout(120)
            while await asyncio.to_thread(raw.recv, 65536):
                pass
        await served_again(running, toy.name)


@pytest.mark.llamacpp
async def test_a_full_disk_below_the_logs_changes_nothing(toy: Path, settings: Settings) -> None:
    port = free_port()
    words = ["serve", str(toy), "--port", str(port), "--json-logs"]
    command = [sys.executable, "-m", "vllama", *words]
    with Path("/dev/full").open("wb") as full:  # noqa: ASYNC230
        process = subprocess.Popen(command, env=dict(settings.environment), stderr=full)  # noqa: ASYNC220
        running = Running(process, Path(os.devnull), f"http://127.0.0.1:{port}")
        try:
            for _ in range(4000):
                with contextlib.suppress(httpx.TransportError):
                    await served_again(running, toy.name)
                    break
                await asyncio.sleep(0.05)
            await served_again(running, toy.name)
            family = running.family
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, 120)
        assert not await left(family)


@pytest.mark.parametrize("moment", ["streaming", "loading"])
async def test_kill_9_of_vllama_leaves_nothing(simulated: Simulated, moment: str) -> None:
    faults = SLOW if moment == "streaming" else {"fault_start_s": 60}
    words = simulated.words(**faults)
    async with serving(*words, settings=simulated.settings) as running:
        asking = asyncio.ensure_future(running.chat(simulated.name, tokens=1000))
        await until(lambda: bool(leaves(running)))
        if moment == "streaming":
            await served_again(running, simulated.name)
        family = running.family
        running.process.kill()
        with pytest.raises(httpx.TransportError):
            await asking
        assert not await left(family)


async def test_a_stolen_port_is_only_another_try() -> None:
    stolen = EngineFailed("address already in use", kind="port")
    engine = FakeEngine(failures=[stolen, stolen])
    pool = Pool(Shop(engine))
    await pool.preload("m")
    await pool.close()
    assert engine.started == ["m:best"]


async def test_a_clock_that_jumps_moves_no_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(Shop(FakeEngine()), keep_alive_s=300)
    await pool.preload("m")
    real = time.time
    for jump_s in (1e6, -1e6):
        monkeypatch.setattr(time, "time", lambda j=jump_s: real() + j)
        monkeypatch.setattr(time, "time_ns", lambda j=jump_s: int((real() + j) * 1e9))
        async with pool.lease("m") as lease:
            assert 0 <= lease.waited_s < 30
        assert 0 < pool.loaded()[0].expires_in_s <= 300
    await pool.close()
