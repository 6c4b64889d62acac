"""`vllama pull` killed with SIGKILL: nothing looks complete, and the next one goes on."""

import asyncio
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.server.running import serving
from tests.store import hubs, registries
from vllama.settings import Settings
from vllama.store import catalogue

# Larger than what is fetched before the progress of a part is noted.
SIZE = 24 << 20
ENOUGH = 10 << 20


@pytest.fixture
def weights(toy: Path) -> bytes:
    """A model that is large enough to be killed halfway."""
    raw = (toy / "toy-q8_0.gguf").read_bytes()
    return raw + bytes(SIZE - len(raw))


@pytest.fixture
def hub(weights: bytes) -> Iterator[hubs.Hub]:
    with hubs.running() as state:
        state.repositories["u/r-GGUF"] = {"r-Q8_0.gguf": weights}
        yield state


@pytest.fixture
def registry(weights: bytes) -> Iterator[registries.Registry]:
    with registries.running() as state:
        state.put("library/tiny:latest", [("model", weights), ("license", b"MIT")])
        yield state


async def vllama(settings: Settings, *words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "vllama", *words,
        env={k: v for k, v in settings.environment.items() if k != "OLLAMA_HOST"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def done(settings: Settings, *words: str) -> tuple[int | None, str]:
    process = await vllama(settings, *words)
    out, err = await process.communicate()
    return process.returncode, (out + err).decode()


async def killed_halfway(settings: Settings, under: Path, *words: str) -> None:
    """Run the pull until enough of the blob is noted to be here, then kill it."""
    process = await vllama(settings, *words)

    def noted() -> int:
        found = [re.findall(r"\d+", p.read_text()) for p in under.rglob(".partial-*.json")]
        return max((int(n) for words in found for n in words[1:]), default=0)

    while noted() < ENOUGH - (2 << 20):
        assert process.returncode is None, (await process.communicate())[1]
        await asyncio.sleep(0.01)
    process.kill()
    await process.wait()


async def assert_nobody_sees(name: str, settings: Settings) -> None:
    """Neither the store nor a server knows it, and serving it by name is refused."""
    assert catalogue.cards(settings) == []
    code, told = await done(settings, "serve", "--port", "0", name)
    assert (code, "not found" in told) == (1, True), told
    async with serving(settings=settings) as running, httpx.AsyncClient() as client:
        assert (await client.get(f"{running.url}/api/tags")).json() == {"models": []}
        shown = await client.post(f"{running.url}/api/show", json={"model": name})
        assert shown.status_code == 404
        assert (await running.chat(name)).status_code == 404


def starts(ranges: list[str]) -> list[int]:
    return [int(r.removeprefix("bytes=").partition("-")[0]) for r in ranges]


async def test_a_killed_pull_from_the_hub_is_no_model_and_goes_on_where_it_was(
    hub: hubs.Hub, settings: Settings
) -> None:
    name = "hf.co/u/r-GGUF:Q8_0"
    online = at(settings, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0")
    hub.slow = threading.Event()
    await killed_halfway(online, settings.hub_cache, "pull", "--source", "hub", name)
    hub.slow.set()
    await assert_nobody_sees(name, settings)
    hub.asked.clear()
    code, told = await done(online, "pull", "--source", "hub", name)
    assert code == 0, told
    [start] = starts([r for _, path, r in hub.asked if "/resolve/" in path and r])
    assert start >= ENOUGH - (2 << 20)
    assert [c.name for c in catalogue.cards(settings)] == [name]
    assert not list(settings.hub_cache.rglob("*partial*"))


async def test_a_killed_pull_from_a_registry_is_no_model_and_goes_on_where_it_was(
    registry: registries.Registry, settings: Settings
) -> None:
    name = f"{registry.host}/library/tiny:latest"
    registry.stalls = [threading.Event()]
    registry.cut_after = [ENOUGH]
    await killed_halfway(
        settings, settings.home, "pull", "--source", "registry", "--insecure", name
    )
    registry.stalls.pop().set()
    await assert_nobody_sees(name, settings)
    registry.asked.clear()
    code, told = await done(settings, "pull", "--source", "registry", "--insecure", name)
    assert code == 0, told
    assert starts(registry.ranges())[0] >= ENOUGH - (2 << 20)
    assert [c.name for c in catalogue.cards(settings)] == [name]
    assert not list(settings.home.rglob("*partial*"))


def at(settings: Settings, **variables: str) -> Settings:
    """The same with these environment variables."""
    return replace(settings, environment={**settings.environment, **variables})
