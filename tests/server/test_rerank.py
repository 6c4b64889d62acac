"""A cross-encoder ranks documents on llama.cpp and on vLLM as the reference implementation does."""

import math
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import reranker
from tests.conftest import isolated
from tests.server.house import House, serving
from vllama.machine import Machine
from vllama.server.lifecycle.catalogue import Catalogue
from vllama.server.lifecycle.launch import Launcher
from vllama.server.lifecycle.plan import Plan, Start
from vllama.settings import Settings
from vllama.store import catalogue, convert

QUERY = "how do cats sleep?"
DOCUMENTS = [
    "The cat sits on the mat.",
    "Interest rates rose last quarter.",
    "Cats sleep for most of the day, curled up.",
    "x",
]


class Frugal:
    """vLLM with as little as it can do with, llama.cpp as it comes."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher

    def key(self, name: str) -> str:
        return self._launcher.key(name)

    def plan(self, key: str) -> Plan:
        plan = self._launcher.plan(key)
        start = plan.starts[0]
        profile = start.profile
        if profile.engine == "vllm":
            profile = profile.with_options(enforce_eager=True, max_num_seqs=4)
        return replace(plan, starts=(Start(start.engine, profile),))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = isolated(tmp_path_factory.mktemp("reranker"))
    models = settings.home / "models"
    models.mkdir(parents=True)
    reranker.make(models / "ranker")
    for _ in convert.write(models / "ranker", models / "ranker.gguf", "F32"):
        pass
    return settings


@pytest.fixture(scope="module")
def folder(own: Settings) -> Path:
    return own.home / "models" / "ranker"


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("llamacpp", "vllm")],
)
async def house(
    request: pytest.FixtureRequest, own: Settings, machine: Machine
) -> AsyncIterator[tuple[House, str]]:
    launcher = Launcher(Catalogue(), own, machine, wanted=request.param)
    async with serving(Frugal(launcher), own) as each:
        yield each, request.param


async def ranked(house: House, model: str, path: str = "/v1/rerank", **more: Any) -> Any:
    body = {"model": model, "query": QUERY, "documents": DOCUMENTS, **more}
    answer = await house.post(path, body)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


async def test_scores_are_those_of_the_reference(house: tuple[House, str], folder: Path) -> None:
    served, engine = house
    # llama.cpp has one type of sentence only; vLLM gives the document the second, as trained.
    logits = reranker.scores(folder, QUERY, DOCUMENTS, types=engine == "vllm")
    expected = [1 / (1 + math.exp(-logit)) for logit in logits]
    results = await ranked(served, "ranker" if engine == "vllm" else "ranker.gguf")
    found = {each["index"]: each["relevance_score"] for each in results}
    assert [found[i] for i in range(len(DOCUMENTS))] == pytest.approx(expected, abs=1e-3)
    assert [each["index"] for each in results] == sorted(found, key=lambda i: -expected[i])
    first = await ranked(
        served, "ranker" if engine == "vllm" else "ranker.gguf", "/api/rerank", top_n=1,
        return_documents=True,
    )  # fmt: skip
    assert [(each["index"], each["document"]["text"]) for each in first] == [(3, "x")]


def test_a_reranker_is_told_as_one_in_both_formats(own: Settings) -> None:
    for name in ("ranker", "ranker.gguf"):
        card = catalogue.card(name, own)
        assert (card.model.shape.pooling, sorted(card.capabilities)) == ("rank", ["embedding"])
