"""What the fault tests share: a model on the simulator, an outage timed, and what is left."""

import contextlib
import json
import re
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.server.fakes import until
from tests.server.running import Running
from vllama.profile import Profile
from vllama.settings import Settings
from vllama.shelf import Shelf


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


@dataclass
class Outages:
    """How long service was away after each fault, for the end of the report."""

    seconds: dict[str, float] = field(default_factory=dict)

    @asynccontextmanager
    async def after(self, fault: str) -> AsyncIterator[None]:
        """From the fault, which comes first in the block, until the block is over."""
        began_s = time.monotonic()
        yield
        self.seconds[fault] = time.monotonic() - began_s


async def served_again(running: Running, model: str) -> None:
    answer = await running.chat(model, stream=False)
    assert answer.status_code == 200, answer.text


@asynccontextmanager
async def nothing_left(running: Running, model: str) -> AsyncIterator[None]:
    """After what happens in the block, vllama has as many files and tasks open as before it."""
    await served_again(running, model)
    await until(lambda: not connected(running))
    files, working = opened(running), tasks(running)
    yield
    await until(lambda: opened(running) <= files and tasks(running) <= working)


def opened(running: Running) -> int:
    """Open files of vllama, but for connections that live: those to engines are kept."""
    process = psutil.Process(running.process.pid)
    alive = [c for c in process.net_connections("tcp") if c.status == psutil.CONN_ESTABLISHED]
    return int(process.num_fds()) - len(alive)


def connected(running: Running) -> bool:
    """Whether a client is connected."""
    port = int(running.url.rpartition(":")[2])
    process = psutil.Process(running.process.pid)
    return any(
        c.laddr.port == port and c.status != psutil.CONN_LISTEN
        for c in process.net_connections("tcp")
    )


def tasks(running: Running) -> float:
    """How many tasks vllama's event loop has."""
    page = httpx.get(f"{running.url}/metrics", trust_env=False, timeout=60).text
    return next(
        s.value
        for family in text_string_to_metric_families(page)
        for s in family.samples
        if s.name == "vllama_tasks"
    )


def leaves(running: Running) -> list[psutil.Process]:
    """The one engine, if there is one."""
    with contextlib.suppress(AssertionError, psutil.Error):
        return [running.engine]
    return []


def works(engine: psutil.Process) -> bool:
    """Whether a simulator has a request that it works on."""
    port = json.loads(engine.cmdline()[-1])["port"]
    page = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=60).text
    return re.search(r"^vllm:num_requests_running\S* [1-9]", page, re.MULTILINE) is not None


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]
