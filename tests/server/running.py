"""`vllama serve` as its users run it: a process of its own, with real engines below it."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from tests.server.fakes import until
from vllama.settings import Settings

ROOT = Path(__file__).parent.parent.parent


@dataclass
class Running:
    """A serving vllama. `engines` are the processes below it, now."""

    process: "subprocess.Popen[bytes]"
    log: Path
    url: str = ""

    @property
    def text(self) -> str:
        return self.log.read_text()

    @property
    def family(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            return list(psutil.Process(self.process.pid).children(recursive=True))
        return []

    @property
    def engine(self) -> psutil.Process:
        """The one engine's own process: the innermost."""
        leaves = [p for p in self.family if self._is_engine(p)]
        assert len(leaves) == 1, leaves
        return leaves[0]

    def _is_engine(self, process: psutil.Process) -> bool:
        """Neither a guard, nor on its way to become one, nor dead."""
        words = cmdline(process)
        if not words or "guard.py" in words or words == cmdline(psutil.Process(self.process.pid)):
            return False
        with contextlib.suppress(psutil.Error):
            return not process.children()
        return False

    async def chat(self, model: str = "toy", tokens: int = 8, **more: object) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, timeout=300) as client:
            return await client.post(f"{self.url}/api/chat", json=chat(model, tokens, **more))

    @asynccontextmanager
    async def stream(self, model: str = "toy", tokens: int = 8) -> AsyncIterator[httpx.Response]:
        async with (
            httpx.AsyncClient(trust_env=False, timeout=300) as client,
            client.stream("POST", f"{self.url}/api/chat", json=chat(model, tokens)) as response,
        ):
            yield response


def chat(model: str, tokens: int, **more: object) -> dict[str, object]:
    messages = [{"role": "user", "content": "hi"}]
    return {"model": model, "messages": messages, "options": {"num_predict": tokens}, **more}


def cmdline(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


@asynccontextmanager
async def started(
    *words: str, settings: Settings, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Running]:
    """`vllama serve WORDS` on a free port, not yet ready; nothing of it is left afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: ASYNC220 - it is there at once
                [sys.executable, "-m", "vllama", "serve", "--port", "0", *words],
                env={**settings.environment, **(environment or {})},
                stdout=output, stderr=output, start_new_session=True, cwd=ROOT,
            )  # fmt: skip
        running = Running(process, log)
        family: list[psutil.Process] = []
        try:
            yield running
            family = running.family
        finally:
            family = family or running.family
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    await asyncio.to_thread(process.wait, 60)
            if process.poll() is None:
                process.kill()
                process.wait()
            assert not await left(family), running.text


@asynccontextmanager
async def serving(
    *words: str, settings: Settings, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Running]:
    """As `started`, and ready."""
    async with started(*words, settings=settings, environment=environment) as running:
        await until(lambda: "ready on" in running.text or running.process.poll() is not None)
        assert "ready on" in running.text, running.text
        running.url = running.text.partition("ready on ")[2].split()[0]
        yield running


async def left(family: list[psutil.Process]) -> list[psutil.Process]:
    """Those who never end. On a quiet machine all are gone within five seconds."""
    _, alive = await asyncio.to_thread(psutil.wait_procs, family, 60)
    return [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def stop_now(process: psutil.Process) -> None:
    os.kill(process.pid, signal.SIGKILL)
