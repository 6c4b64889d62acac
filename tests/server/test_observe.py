"""`vllama serve --observe` on a real llama.cpp, and `vllama bench` on what it noted."""

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.server.running import serving
from vllama import engines
from vllama.machine import Machine
from vllama.settings import Settings
from vllama.shelf import Shelf
from vllama.store import names
from vllama.traffic import read

pytestmark = pytest.mark.llamacpp
SYSTEM = "Answer like a gardener who has seen many winters and few summers. " * 4
QUESTIONS = ("When are tulips planted?", "What do gnomes eat?", "Why is moss green?")


def _put_small_profile(toy: Path, settings: Settings, machine: Machine) -> None:
    real = engines.engine("llamacpp", settings)
    small = real.default(names.resolve(str(toy), settings), machine)
    small = small.with_options(n_parallel=2, n_ctx=4096, threads=1)
    profile = replace(small, name="best", machine=machine.fingerprint)
    Shelf(settings.home / "profiles").put(profile)


@pytest.mark.parametrize("workers", [1, 2])
async def test_what_is_served_can_be_replayed(
    toy: Path, settings: Settings, machine: Machine, tmp_path: Path, workers: int
) -> None:
    _put_small_profile(toy, settings, machine)
    words = (str(toy), "--observe", "--workers", str(workers))
    async with (
        serving(*words, settings=settings) as running,
        httpx.AsyncClient(trust_env=False, timeout=300) as client,
    ):
        for question in QUESTIONS:
            system = {"role": "system", "content": SYSTEM}
            asked = {"role": "user", "content": question}
            body = {"model": str(toy), "messages": [system, asked], "max_tokens": 9}
            answer = await client.post(f"{running.url}/v1/chat/completions", json=body)
            assert answer.status_code == 200
        whole = answer.json()["usage"]["prompt_tokens"]
        await running.chat(toy.name, tokens=6)
    traffic = read(settings.home / "traffic")
    assert [s.output_tokens for s in traffic] == [9, 9, 9, 6]
    assert traffic[2].prompt_tokens == whole
    assert traffic[0].prefix[:2] == traffic[2].prefix[:2] != ()
    written = "".join(p.read_text() for p in (settings.home / "traffic").iterdir())
    assert "gardener" not in written
    assert "tulips" not in written
    if workers > 1:
        return
    line = [sys.executable, "-m", "vllama", "bench", str(toy), "--workload", "observed", "--json"]
    done = await asyncio.to_thread(
        subprocess.run, line, env=settings.environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    assert result["workload"]["name"] == "observed"
    assert result["measurement"]["failed"] == 0
    assert result["measurement"]["completed"] >= 3


async def test_nothing_is_noted_unless_asked(
    toy: Path, settings: Settings, machine: Machine
) -> None:
    _put_small_profile(toy, settings, machine)
    async with serving(str(toy), settings=settings) as running:
        await running.chat(toy.name)
    assert not (settings.home / "traffic").exists()
