"""Faults of engines and of vllama itself: what the client sees, and that nothing is left.

Run by `make test-faults` with its siblings. A real llama.cpp where its own behaviour matters,
the simulator where a fault has to come at an exact moment. `nothing_left` looks at open files
and tasks, `serving` at processes.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests.server.fakes import until
from tests.server.faults import (
    Outages,
    Simulated,
    leaves,
    lines,
    listens,
    nothing_left,
    served_again,
    works,
)
from tests.server.running import Running, chat, cmdline, left, serving, stop_now
from vllama.engines.process import free_port
from vllama.settings import Settings

# The simulator answers a word every few hundredths of a second with this.
SLOW = {"time_scale": 20}


async def test_killed_before_the_first_token_is_answered_by_a_new_engine(
    simulated: Simulated, outages: Outages
) -> None:
    words = simulated.words(time_scale=300)
    async with (
        serving(*words, "--preload", settings=simulated.settings) as running,
        nothing_left(running, simulated.name),
    ):
        first = running.engine
        asking = asyncio.ensure_future(running.chat(simulated.name, tokens=2))
        await until(lambda: works(first))
        async with outages.after("kill -9 before the first token"):
            stop_now(first)
            answer = await asking
        assert answer.status_code == 200
        assert lines(answer.text)[-1]["done"] is True
        assert "the engine is gone" in running.text


@pytest.mark.llamacpp
async def test_killed_in_mid_stream_ends_it_with_an_error_and_service_is_back(
    toy: Path, settings: Settings, outages: Outages
) -> None:
    async with (
        serving(str(toy), "--preload", settings=settings) as running,
        nothing_left(running, toy.name),
    ):
        async with running.stream(toy.name, tokens=3000) as response:
            each = response.aiter_lines()
            await anext(each)
            async with outages.after("kill -9 in mid stream (llama.cpp)"):
                stop_now(running.engine)
                rest = [line async for line in each]
                await served_again(running, toy.name)
        assert "error" in json.loads(rest[-1])
        assert not json.loads(rest[-1]).get("done")


@pytest.mark.llamacpp
async def test_killed_while_idle_is_started_again_before_anybody_asks(
    toy: Path, settings: Settings, outages: Outages
) -> None:
    async with (
        serving(str(toy), "--preload", settings=settings) as running,
        nothing_left(running, toy.name),
    ):
        first = running.engine
        async with outages.after("kill -9 while idle (llama.cpp)"):
            stop_now(first)
            await until(lambda: any(p.pid != first.pid for p in leaves(running)))
            await served_again(running, toy.name)


async def test_killed_while_loading_falls_back_and_says_so(
    simulated: Simulated, outages: Outages
) -> None:
    words = simulated.words(fault_start_s=60)
    async with serving(*words, settings=simulated.settings) as running:
        asking = asyncio.ensure_future(running.chat(simulated.name, stream=False))
        await until(lambda: bool(leaves(running)))
        async with outages.after("kill -9 while loading"):
            stop_now(running.engine)
            assert (await asking).status_code == 200
        assert "profile 'best' no longer starts" in running.text
        async with nothing_left(running, simulated.name):
            pass


async def test_a_stopped_engine_is_noticed_and_replaced(
    simulated: Simulated, outages: Outages
) -> None:
    words = simulated.words(**SLOW)
    async with (
        serving(*words, "--preload", settings=simulated.settings) as running,
        nothing_left(running, simulated.name),
    ):
        hung = running.engine
        async with running.stream(simulated.name, tokens=1000) as response:
            each = response.aiter_lines()
            await anext(each)
            async with outages.after("hang (SIGSTOP)"):
                hung.send_signal(signal.SIGSTOP)
                rest = [line async for line in each]
                await served_again(running, simulated.name)
        assert "SIGSTOP" in str(json.loads(rest[-1])["error"])
        assert not await left([hung])


async def test_an_engine_that_ignores_sigterm_is_gone_all_the_same(
    simulated: Simulated, outages: Outages
) -> None:
    words = simulated.words(fault_ignore_sigterm=True)
    async with serving(*words, "--preload", settings=simulated.settings) as running:
        async with nothing_left(running, simulated.name):
            deaf = running.engine
            async with outages.after("an engine that ignores SIGTERM is unloaded, then asked for"):
                unload = chat(simulated.name, 1, stream=False) | {"messages": [], "keep_alive": 0}
                async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
                    answer = await client.post(f"{running.url}/api/chat", json=unload)
                assert answer.json()["done_reason"] == "unload"
                await served_again(running, simulated.name)
            # The new one has started beside it: there is room.
            assert not await left([deaf])
            await until(lambda: any(p.pid != deaf.pid for p in leaves(running)))
        family = running.family
        running.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(running.process.wait, 120) == 0
        assert not await left(family)


async def test_a_stolen_port_is_only_another_try(simulated: Simulated, outages: Outages) -> None:
    words = simulated.words(fault_start_s=0.1)
    async with serving(*words, settings=simulated.settings) as running:
        asking = asyncio.ensure_future(running.chat(simulated.name, stream=False))
        await until(lambda: bool(leaves(running)))
        engine = running.engine
        engine.suspend()
        port = json.loads(engine.cmdline()[-1])["port"]
        with socket.create_server(("127.0.0.1", port)):
            async with outages.after("port stolen while loading"):
                engine.resume()
                assert (await asking).status_code == 200
        assert "its port was taken" in running.text
        assert f'"port": {port}' not in cmdline(running.engine)
        assert "no longer starts" not in running.text
        async with nothing_left(running, simulated.name):
            pass


@pytest.mark.llamacpp
async def test_two_models_that_do_not_fit_together_are_served_in_turns(
    toy: Path, toy_embedder: Path, settings: Settings, outages: Outages
) -> None:
    limits = {"OLLAMA_MAX_LOADED_MODELS": "1"}
    async with (
        serving(str(toy), str(toy_embedder), settings=settings, environment=limits) as running,
        httpx.AsyncClient(trust_env=False, timeout=300) as client,
    ):
        for _ in range(2):
            await served_again(running, toy.name)
            asked = {"model": toy_embedder.name, "input": "hi"}
            async with outages.after("another model is loaded and has no room (llama.cpp)"):
                answer = await client.post(f"{running.url}/api/embed", json=asked)
            assert answer.status_code == 200, answer.text
            loaded = (await client.get(f"{running.url}/api/ps")).json()["models"]
            assert len(loaded) == 1
            assert len(leaves(running)) == 1
        async with nothing_left(running, toy.name):
            pass


@pytest.mark.llamacpp
async def test_a_full_disk_below_the_logs_changes_nothing(toy: Path, settings: Settings) -> None:
    port = free_port()
    words = ["serve", str(toy), "--port", str(port), "--json-logs"]
    command = [sys.executable, "-m", "vllama", *words]
    with Path("/dev/full").open("wb") as full:  # noqa: ASYNC230
        process = subprocess.Popen(command, env=dict(settings.environment), stderr=full)  # noqa: ASYNC220
        running = Running(process, Path(os.devnull), f"http://127.0.0.1:{port}")
        family: list[psutil.Process] = []
        try:
            await until(lambda: listens(port))
            async with nothing_left(running, toy.name):
                await served_again(running, toy.name)
                family = running.family
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, 120)
        assert family
        assert not await left(family)


@pytest.mark.parametrize("moment", ["streaming", "loading"])
async def test_kill_9_of_vllama_leaves_nothing(
    simulated: Simulated, outages: Outages, moment: str
) -> None:
    faults = SLOW if moment == "streaming" else {"fault_start_s": 60}
    words = simulated.words(**faults)
    async with serving(*words, settings=simulated.settings) as running:
        asking = asyncio.ensure_future(running.chat(simulated.name, tokens=1000))
        await until(lambda: bool(leaves(running)))
        if moment == "streaming":
            await served_again(running, simulated.name)
        family = running.family
        async with outages.after(f"kill -9 of vllama while {moment}: until its engines are gone"):
            running.process.kill()
            with pytest.raises(httpx.TransportError):
                await asking
            assert not await left(family)
