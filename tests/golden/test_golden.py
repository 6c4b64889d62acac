"""Every recorded answer of a real Ollama, asked of vllama on a real llama.cpp.

The recordings are replayed in their order, because some depend on earlier ones.
"""

import os
from pathlib import Path

import httpx
import pytest

from tests.conftest import isolated
from tests.golden import exceptions, table
from tests.golden.compare import RECORDINGS, Recording, differences, recordings, replay
from tests.server.house import Small, create, serving
from vllama.machine import Machine
from vllama.server.lifecycle.catalogue import Catalogue
from vllama.server.lifecycle.launch import Launcher

pytestmark = pytest.mark.llamacpp
FOLDER = Path(os.environ.get("VLLAMA_GOLDEN", RECORDINGS))
ALL = recordings(FOLDER)


@pytest.fixture(scope="module")
async def outcomes(
    toy: Path, toy_embedder: Path, machine: Machine, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[str]]:
    """What differs in the answer to each recorded request; empty lists are passes."""
    settings = isolated(tmp_path_factory.mktemp("golden"))
    choose = Small(Launcher(Catalogue(), settings, machine, wanted="llamacpp"))
    found: dict[str, list[str]] = {}
    async with serving(choose, settings) as house, house.client() as client:
        for name, folder in (("tiny", toy), ("tiny-embed", toy_embedder)):
            await create(client, name, folder / "toy-f16.gguf")
        for recording in ALL:
            found[recording.name] = await _differences(recording, client)
    table.RESULTS.update(found)
    return found


async def _differences(recording: Recording, client: httpx.AsyncClient) -> list[str]:
    try:
        return differences(recording, await replay(recording, client))
    except (httpx.HTTPError, ValueError) as error:
        return [f"{type(error).__name__}: {error}"]


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
