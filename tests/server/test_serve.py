"""`vllama serve` as a process, on a real llama.cpp."""

import asyncio
import json
import signal
import socket
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.server.fakes import until
from tests.server.running import left, serving, started
from vllama import engines
from vllama.machine import Machine
from vllama.profile import Profile
from vllama.settings import Settings
from vllama.shelf import Shelf
from vllama.store import names

pytestmark = pytest.mark.llamacpp


@pytest.fixture
def model(toy: Path, tmp_path: Path) -> Path:
    """The toy in a folder that is called so."""
    folder = tmp_path / "toy"
    folder.symlink_to(toy)
    return folder


@pytest.fixture
def profile(toy: Path, settings: Settings, machine: Machine) -> Profile:
    """A profile that is small and quick to start."""
    real = engines.engine("llamacpp", settings)
    small = real.default(names.resolve(str(toy), settings), machine)
    small = small.with_options(n_parallel=2, n_ctx=4096, threads=1)
    return replace(small, name="best", machine=machine.fingerprint)


async def test_a_folder_is_served_by_its_short_name_and_leaves_nothing(
    model: Path, settings: Settings, toy: Path
) -> None:
    # resolve() follows the link, so the name is the real folder's.
    async with serving(str(model), settings=settings) as running:
        name = toy.name
        answer = (await running.chat(name, stream=False)).json()
        assert answer["done"] is True
        assert answer["eval_count"] == 8
        lines = (await running.chat(name)).text.splitlines()
        text = "".join(json.loads(line)["message"]["content"] for line in lines)
        assert json.loads(lines[-1])["done_reason"] == "length"
        assert text
        family = running.family
        running.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(running.process.wait, 120) == 0
        assert not await left(family)
        assert running.text.count("no saved profile") == 1


async def test_the_saved_profile_is_what_is_launched(
    toy: Path, settings: Settings, profile: Profile
) -> None:
    Shelf(settings.home / "profiles").put(profile)
    async with serving(str(toy), "--preload", settings=settings) as running:
        assert running.text.count("profile 'best' on llamacpp") == 1
        async with httpx.AsyncClient(trust_env=False) as client:
            loaded = (await client.get(f"{running.url}/api/ps")).json()["models"]
        assert loaded[0]["context_length"] in (2048, 4096)


async def test_a_profile_of_another_machine_is_refused_unless_forced(
    toy: Path, settings: Settings, profile: Profile
) -> None:
    Shelf(settings.home / "profiles").put(replace(profile, machine="8x-nvidia-h200-141gb"))
    async with started(str(toy), settings=settings) as running:
        assert await asyncio.to_thread(running.process.wait, 120) == 1
        assert "was made on 8x-nvidia-h200-141gb" in running.text
        assert "--force" in running.text
    async with serving(str(toy), "--force", settings=settings) as running:
        assert (await running.chat(toy.name, stream=False)).status_code == 200


async def test_a_missing_or_broken_profile_and_an_unknown_model_are_said_before_serving(
    toy: Path, settings: Settings, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    for words, message in (
        ([str(toy), "--profile", "fastest"], "no profile 'fastest'"),
        ([str(toy), "--profile", str(broken)], "broken.json"),
        (["no-such-model"], "model 'no-such-model' not found"),
    ):
        async with started(*words, settings=settings) as running:
            assert await asyncio.to_thread(running.process.wait, 120) == 1
            assert message in running.text
            assert "Traceback" not in running.text


async def test_a_busy_port_is_told_with_its_holder_before_anything_starts(
    toy: Path, settings: Settings
) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        async with started(str(toy), "--preload", "--port", port, settings=settings) as running:
            assert await asyncio.to_thread(running.process.wait, 120) == 1
            assert f"127.0.0.1:{port} is in use by" in running.text
            assert "--port" in running.text
            assert not running.family


async def test_listening_beyond_this_computer_asks_for_a_key(
    toy: Path, settings: Settings, tmp_path: Path
) -> None:
    async with started(str(toy), "--host", "0.0.0.0", settings=settings) as running:
        assert await asyncio.to_thread(running.process.wait, 120) == 2
        assert "--api-key-file" in running.text
    keys = tmp_path / "keys"
    keys.write_text("# ours\nsecret\n")
    async with (
        serving("--api-key-file", str(keys), settings=settings) as running,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        assert (await client.get(f"{running.url}/api/tags")).status_code == 401
        bearer = {"authorization": "Bearer secret"}
        answer = await client.get(f"{running.url}/api/tags", headers=bearer)
        assert answer.status_code == 200


async def test_sigterm_lets_streams_finish(toy: Path, settings: Settings) -> None:
    async with serving(str(toy), "--preload", settings=settings) as running:
        async with running.stream(toy.name, tokens=300) as response:
            lines = response.aiter_lines()
            await anext(lines)
            running.process.send_signal(signal.SIGTERM)
            rest = [line async for line in lines]
        assert json.loads(rest[-1])["done"] is True
        assert await asyncio.to_thread(running.process.wait, 120) == 0


async def test_a_newly_tuned_profile_is_changed_to_without_a_failed_request(
    toy: Path, settings: Settings, profile: Profile
) -> None:
    shelf = Shelf(settings.home / "profiles")
    shelf.put(profile)
    async with serving(str(toy), "--preload", "--watch", settings=settings) as running:
        statuses: list[int] = []
        over = asyncio.Event()

        async def ask() -> None:
            while not over.is_set():
                answer = await running.chat(toy.name, stream=False)
                statuses.append(answer.status_code)

        asking = asyncio.gather(ask(), ask())
        await until(lambda: len(statuses) > 3)
        shelf.put(profile.with_options(n_parallel=3))
        await until(lambda: "now with profile 'best'" in running.text)
        seen = len(statuses)
        await until(lambda: len(statuses) > seen + 3)
        over.set()
        await asking
        assert set(statuses) == {200}
        running.process.send_signal(signal.SIGHUP)
        await until(lambda: "its profile is as it was" in running.text)


async def test_json_logs_are_one_object_a_line(toy: Path, settings: Settings) -> None:
    async with serving(str(toy), "--json-logs", "--preload", settings=settings) as running:
        await running.chat(toy.name, stream=False)
        lines = [x for x in running.text.splitlines() if not x.startswith("vllama is ready")]
        assert lines
        assert all({"ts", "level", "message"} <= json.loads(line).keys() for line in lines)


@pytest.mark.parametrize("more", [(), ("--workers", "2")], ids=["alone", "workers"])
async def test_the_largest_body_is_told_on_the_command_line(
    settings: Settings, more: tuple[str, ...]
) -> None:
    async with serving("--max-body", "1K", *more, settings=settings) as running:
        async with httpx.AsyncClient(base_url=running.url, trust_env=False) as client:
            small = await client.post("/api/show", json={"model": "x" * 80})
            large = await client.post("/api/show", json={"model": "x" * 1024})
        assert small.status_code != 413
        assert (large.status_code, large.json()) == (413, {"error": "http: request body too large"})
