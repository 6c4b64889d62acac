"""Faults of engines that somebody else runs: vllama can neither stop nor start them."""

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import psutil
import pytest

from tests.server.fakes import Handler, until, upstream
from tests.server.faults import Outages, Simulated, nothing_left, served_again
from tests.server.running import Running, chat, serving, started
from tests.server.test_faults_clients import sized
from vllama.engines.engine import Endpoint
from vllama.engines.simulator import Simulator
from vllama.profile import Profile
from vllama.settings import Settings

SLOW = {"time_scale": 20, "answer_tokens": 300}


@asynccontextmanager
async def foreign(settings: Settings) -> AsyncIterator[tuple[Endpoint, psutil.Process]]:
    """An engine that vllama has not started, and its process."""
    async with Simulator(settings).start(
        Profile("theirs", "simulator", "m:latest", SLOW)
    ) as endpoint:
        below = [psutil.Process(pid) for pid in endpoint.life.pids]
        yield endpoint, next(p for p in below if "simulator_child" in p.cmdline()[2])


async def test_a_hung_attached_engine_is_left_out_and_taken_back(
    settings: Settings, outages: Outages
) -> None:
    async with (
        foreign(settings) as (one, first),
        foreign(settings) as (two, _),
        serving(
            "--attach", f"m={one.base_url},{two.base_url}", "--preload", settings=settings
        ) as running,
        nothing_left(running, "m"),
    ):
        await until(lambda: engines(running) == 2)
        # One prompt leads to one replica until that has four more than the other.
        heard: list[str] = []
        asking = [asyncio.create_task(end_of_stream(running, heard)) for _ in range(12)]
        await until(lambda: len(heard) == 12)
        async with outages.after("hang of one of two attached engines, until it is left out"):
            first.send_signal(signal.SIGSTOP)
            late = [asyncio.create_task(ask(running)) for _ in range(4)]
            await until(lambda: engines(running) == 1)
        # Those that the hung one had begun hear why; the other's notice nothing.
        ends = await asyncio.gather(*asking)
        failed = [end["error"] for end in ends if "error" in end]
        assert 1 <= len(failed) <= 8
        assert all("has not answered for" in error for error in failed)
        assert sum(end.get("done", False) for end in ends) == 12 - len(failed)
        # What it had not begun is asked again of the other.
        assert [answer.status_code for answer in await asyncio.gather(*late)] == [200] * 4
        for _ in range(4):
            await served_again(running, "m")

        async with outages.after("it goes on, until it is taken back"):
            first.send_signal(signal.SIGCONT)
            await until(lambda: engines(running) == 2)
        await served_again(running, "m")


async def end_of_stream(running: Running, heard: list[str]) -> dict[str, Any]:
    """The last line of a long stream, whose first is `heard` when it comes."""
    async with running.stream("m", 300) as response:
        lines = response.aiter_lines()
        heard.append(await anext(lines))
        *_, last = [line async for line in lines]
    end: dict[str, Any] = json.loads(last)
    return end


async def ask(running: Running) -> httpx.Response:
    return await running.chat("m", 1, stream=False)


def engines(running: Running) -> float:
    page = httpx.get(f"{running.url}/metrics", trust_env=False, timeout=60).text
    lines = [line for line in page.splitlines() if line.startswith("vllama_engines{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def saying_only(answer: bytes) -> Handler:
    """An engine that answers each request so, but lists its model."""

    async def handler(
        body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(answer if body else sized({"data": [{"id": "m"}]}))

    return handler


NONSENSE = {
    "no JSON": b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n<ok>",
    "another form": sized({"choices": 3}),
    "a stream": sized({}).replace(b"{}", b"d:").replace(b"application/json", b"text/event-stream"),
}


@pytest.mark.parametrize("kind", NONSENSE)
async def test_an_attached_engine_that_talks_nonsense_is_told_as_an_error(
    simulated: Simulated, kind: str
) -> None:
    async with (
        upstream(saying_only(NONSENSE[kind])) as url,
        serving("--attach", f"m={url}", settings=simulated.settings) as running,
        httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=300) as client,
    ):
        answer = await client.post("/api/chat", json=chat("m", 1, stream=False))
        assert answer.status_code in (500, 502), answer.text
        assert isinstance(answer.json()["error"], str)
        messages = [{"role": "user", "content": "hi"}]
        asked = {"model": "m", "max_tokens": 1, "messages": messages}
        answer = await client.post("/v1/messages", json=asked)
        assert answer.status_code in (500, 502), answer.text
        assert answer.json()["type"] == "error"


async def test_an_attached_server_that_is_not_there_is_unavailable_and_not_broken(
    settings: Settings,
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        async with serving("--attach", f"m={url}", settings=settings) as running:
            native = await ask(running)
            assert native.status_code == 503
            assert native.json() == {"error": f"nobody listens at {url}"}
            assert int(native.headers["retry-after"]) >= 1
            async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
                body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
                other = await client.post(f"{running.url}/v1/chat/completions", json=body)
            assert other.status_code == 503
            assert other.json()["error"]["message"] == f"nobody listens at {url}"


async def test_a_preload_that_fails_says_why_and_nothing_else(settings: Settings) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        async with started("--attach", f"m={url}", "--preload", settings=settings) as running:
            assert await asyncio.to_thread(running.process.wait, 60) == 1
            assert f"nobody listens at {url}" in running.text
            assert "Warning" not in running.text
