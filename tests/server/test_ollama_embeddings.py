"""A real embedding model: the vectors are those that Ollama's own tests expect."""

from collections.abc import AsyncIterator

import pytest

from tests import minilm
from tests.conftest import isolated
from tests.server.house import House, Small, create, serving
from vllama.machine import Machine
from vllama.server.lifecycle.catalogue import Catalogue
from vllama.server.lifecycle.launch import Launcher

pytestmark = pytest.mark.llamacpp
QUESTION = "why is the sky blue?"


@pytest.fixture(scope="module")
async def house(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    folder = tmp_path_factory.mktemp("minilm")
    settings = isolated(folder)
    file = folder / "all-minilm.gguf"
    minilm.write_gguf(file)
    choose = Small(Launcher(Catalogue(), settings, machine, wanted="llamacpp"))
    async with serving(choose, settings) as each, each.client() as client:
        await create(client, "all-minilm", file)
        yield each


async def test_the_vector_and_its_tokens_are_the_known_ones(house: House) -> None:
    made = (await house.post("/api/embed", {"model": "all-minilm", "input": QUESTION})).json()
    assert len(made["embeddings"][0]) == 384
    assert made["prompt_eval_count"] == 8
    assert made["embeddings"][0][0] == pytest.approx(0.0101, abs=2e-4)
    two = [QUESTION, "why is the grass green?"]
    both = (await house.post("/api/embed", {"model": "all-minilm", "input": two})).json()
    assert both["prompt_eval_count"] == 16
    assert both["embeddings"][0] == pytest.approx(made["embeddings"][0], abs=1e-3)


async def test_the_legacy_vector_is_as_the_model_made_it(house: House) -> None:
    request = {"model": "all-minilm", "prompt": QUESTION}
    made = (await house.post("/api/embeddings", request)).json()
    assert made["embedding"][0] == pytest.approx(0.0664, abs=2e-3)


async def test_what_cannot_be_cut_to_fit_is_refused(house: House) -> None:
    request = {"model": "all-minilm", "input": QUESTION, "options": {"num_ctx": 2}}
    response = await house.post("/api/embed", request)
    assert response.status_code == 400
    assert "context length" in response.json()["error"]
    long = {"model": "all-minilm", "input": "why " * 2000}
    cut = await house.post("/api/embed", long)
    assert cut.json()["prompt_eval_count"] <= 512
    whole = await house.post("/api/embed", {**long, "truncate": False})
    assert (whole.status_code, whole.json()["error"]) == (
        400,
        "the input length exceeds the context length",
    )
