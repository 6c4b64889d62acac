"""`vllama serve` with two models that may not run beside each other, on the simulator."""

import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.server.fakes import until
from tests.server.running import Running, cmdline, left, serving, stop_now
from tests.server.test_telemetry import samples
from vllama.engines.sleep import OPTION
from vllama.profile import Profile
from vllama.settings import Settings
from vllama.shelf import Shelf

ONE = {"OLLAMA_MAX_LOADED_MODELS": "1"}


class Two:
    """Two models, `one` and `two`."""

    def __init__(self, toy: Path, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self._toys = {name: folder.resolve() / name for name in ("one", "two")}
        for each in self._toys.values():
            shutil.copytree(toy, each)

    @asynccontextmanager
    async def serving(self, *words: str, **options: str | int | float) -> AsyncIterator[Running]:
        names = []
        for path in self._toys.values():
            names.append(str(path))
            profile = Profile("best", "simulator", str(path), {OPTION: True, **options})
            Shelf(self.settings.home / "profiles").put(profile)
        async with serving(*names, *words, settings=self.settings, environment=ONE) as running:
            yield running

    async def ask(self, running: Running, *names: str) -> None:
        for name in names:
            answer = await running.chat(name, stream=False)
            assert answer.status_code == 200, answer.text

    def pids(self, running: Running) -> dict[str, int]:
        """The engine of each model, asleep or awake."""
        return {
            name: process.pid
            for process in running.family
            for name, path in self._toys.items()
            if "simulator_child" in (words := cmdline(process)) and "guard.py" not in words
            and f'"{path}"' in words
        }  # fmt: skip


@pytest.fixture
def two(toy: Path, settings: Settings, tmp_path: Path) -> Two:
    return Two(toy, settings, tmp_path)


async def test_models_in_turns_are_woken_and_not_started_again(two: Two) -> None:
    async with two.serving() as running:
        await two.ask(running, "one", "two")
        first = two.pids(running)
        assert set(first) == {"one", "two"}
        await two.ask(running, "one", "two", "one")
        assert two.pids(running) == first
        async with httpx.AsyncClient(base_url=running.url, trust_env=False) as client:
            shown = (await client.get("/api/ps")).json()["models"]
            assert [Path(each["name"]).name.partition(":")[0] for each in shown] == ["one"]
            found = samples((await client.get("/metrics")).text)
        by_model = {
            (name, Path(dict(labels)["model"]).name, dict(labels).get("outcome", "")): value
            for (name, labels), value in found.items()
            if name in ("vllama_asleep", "vllama_sleeps", "vllama_wakes")
        }
        assert by_model["vllama_asleep", "one", ""] == 0
        assert by_model["vllama_asleep", "two", ""] == 1
        assert by_model["vllama_sleeps", "one", ""] == 2
        assert by_model["vllama_wakes", "one", "ok"] == 2
        assert by_model["vllama_wakes", "one", "failed"] == 0


async def test_a_killed_sleeper_is_started_again_when_it_is_asked_for(two: Two) -> None:
    async with two.serving() as running:
        await two.ask(running, "one", "two")
        sleeper = psutil.Process(two.pids(running)["one"])
        stop_now(sleeper)
        await until(lambda: "stopped in its sleep" in running.text or not sleeper.is_running())
        await two.ask(running, "one")
        assert two.pids(running)["one"] != sleeper.pid


@pytest.mark.parametrize("wake", ["refuse", "die"])
async def test_one_that_does_not_wake_is_started_again_and_the_client_sees_nothing(
    two: Two, wake: str
) -> None:
    async with two.serving(fault_wake=wake) as running:
        await two.ask(running, "one", "two")
        before = two.pids(running)["one"]
        await two.ask(running, "one")
        assert "does not wake" in running.text
        assert two.pids(running)["one"] != before


async def test_without_sleep_the_one_that_makes_room_is_stopped(two: Two) -> None:
    async with two.serving("--no-sleep") as running:
        await two.ask(running, "one", "two")
        assert set(two.pids(running)) == {"two"}


async def test_unloading_ends_a_sleeper_as_it_ends_one_awake(two: Two) -> None:
    async with two.serving() as running:
        await two.ask(running, "one", "two")
        sleeper = psutil.Process(two.pids(running)["one"])
        async with httpx.AsyncClient(base_url=running.url, trust_env=False) as client:
            answer = await client.post("/api/generate", json={"model": "one", "keep_alive": 0})
            assert json.loads(answer.text.splitlines()[-1])["done_reason"] == "unload"
        assert not await left([sleeper])


async def test_vllama_killed_takes_its_sleepers_along(two: Two) -> None:
    async with two.serving() as running:
        await two.ask(running, "one", "two")
        family = running.family
        running.process.kill()
        with contextlib.suppress(psutil.Error):
            running.process.wait()
        assert not await left(family)
