"""Every recorded answer of a real Ollama, asked of vllama on a real llama.cpp.

The recordings are replayed in their order, because some depend on earlier ones.
"""

import asyncio
import hashlib
import os
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.conftest import isolated
from tests.golden import exceptions, table
from tests.golden.compare import RECORDINGS, Recording, differences, recordings, replay
from tests.server.house import serving
from vllama.machine import Machine
from vllama.server.catalogue import Catalogue
from vllama.server.launch import Launcher
from vllama.server.plan import Plan, Start

pytestmark = pytest.mark.llamacpp
FOLDER = Path(os.environ.get("VLLAMA_GOLDEN", RECORDINGS))
ALL = recordings(FOLDER)
TEMPLATE = (
    "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n"
    "{{ end }}<|im_start|>assistant\n"
)
STOPS = ["<|im_start|>", "<|im_end|>"]


class _Recorded:
    """Launches with the context that the recordings were made with."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher

    def key(self, name: str) -> str:
        return self._launcher.key(name)

    def plan(self, key: str) -> Plan:
        plan = self._launcher.plan(key)
        start = plan.starts[0]
        profile = start.profile.with_options(
            n_ctx=8192, n_parallel=2, kv_unified=False, threads=1, threads_batch=1
        )
        return replace(plan, starts=(Start(start.engine, profile),))


@pytest.fixture(scope="module")
async def outcomes(
    toy: Path, toy_embedder: Path, machine: Machine, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[str]]:
    """What differs in the answer to each recorded request; empty lists are passes."""
    settings = isolated(tmp_path_factory.mktemp("golden"))
    choose = _Recorded(Launcher(Catalogue(), settings, machine, wanted="llamacpp"))
    found: dict[str, list[str]] = {}
    async with serving(choose, settings) as house, house.client() as client:
        for name, folder in (("tiny", toy), ("tiny-embed", toy_embedder)):
            await _create(client, name, folder / "toy-f16.gguf")
        for recording in ALL:
            found[recording.name] = await _differences(recording, client)
    table.RESULTS.update(found)
    return found


async def _differences(recording: Recording, client: httpx.AsyncClient) -> list[str]:
    try:
        return differences(recording, await replay(recording, client))
    except (httpx.HTTPError, ValueError) as error:
        return [f"{type(error).__name__}: {error}"]


async def _create(client: httpx.AsyncClient, name: str, file: Path) -> None:
    data = await asyncio.to_thread(file.read_bytes)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    (await client.post(f"/api/blobs/{digest}", content=data)).raise_for_status()
    request = {
        "model": name,
        "files": {file.name: digest},
        "template": TEMPLATE,
        "parameters": {"stop": STOPS},
        "stream": False,
    }
    (await client.post("/api/create", json=request)).raise_for_status()


@pytest.mark.parametrize("recording", ALL, ids=lambda r: r.name)
async def test_the_answer_is_like_the_recorded_one(
    recording: Recording, outcomes: dict[str, list[str]]
) -> None:
    found = [
        line for line in outcomes[recording.name] if not exceptions.excused(recording.name, line)
    ]
    assert not found, "\n".join(found)


def test_no_exception_is_kept_that_is_not_needed(outcomes: dict[str, list[str]]) -> None:
    if FOLDER != RECORDINGS:
        pytest.skip("other recordings need other exceptions")
    unneeded = [name for name in exceptions.ARGUED if not outcomes.get(name)]
    assert not unneeded
