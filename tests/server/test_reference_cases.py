"""The 108 numbered black-box cases of Ollama's API, each tried on the real application.

A chat model, a model with tools and thinking, and an embedder run on a real llama.cpp. Where
random weights cannot show it (a tool call, an end of their own), the simulator is scripted.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.server.house import House
from tests.server.reference import library, others, refusals, writing
from tests.server.reference.cases import CASES, World
from tests.server.test_translation import simulated
from vllama.settings import Settings

pytestmark = pytest.mark.llamacpp
FILES = (refusals, writing, library, others)


@pytest.fixture(scope="module")
async def sim(
    session_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    async with simulated(session_settings, tmp_path_factory.mktemp("scripted")) as house:
        yield house


def test_every_case_is_there() -> None:
    assert sorted(CASES) == list(range(1, 109))
    assert {each.__module__ for each in CASES.values()} == {file.__name__ for file in FILES}


@pytest.mark.parametrize("number", sorted(CASES))
async def test_case(
    number: int, ollama_like: House, sim: House, settings: Settings, tmp_path: Path
) -> None:
    await CASES[number](World(ollama_like, sim, settings, tmp_path))
