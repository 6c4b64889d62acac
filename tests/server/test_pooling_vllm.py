"""A real embedding model on vLLM's pooling runner, beside a model that talks: one start for all."""

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import minilm
from tests.conftest import isolated
from tests.server.house import House, Small, create, serving
from vllama.machine import Machine
from vllama.server.lifecycle.catalogue import Catalogue
from vllama.server.lifecycle.launch import Launcher
from vllama.server.lifecycle.plan import Plan, Start

pytestmark = [pytest.mark.vllm, pytest.mark.llamacpp]
QUESTION = "why is the sky blue?"
NEAR = ["The cat sits on the mat.", "A cat is sitting on a rug."]
FAR = "Interest rates rose last quarter."


class Both:
    """What embeds runs on vLLM, with little memory; what talks on llama.cpp."""

    def __init__(self, embeds: Launcher, talks: Small) -> None:
        self._embeds, self._talks = embeds, talks

    def key(self, name: str) -> str:
        return self._embeds.key(name)

    def plan(self, key: str) -> Plan:
        if not key.startswith("all-minilm"):
            return self._talks.plan(key)
        plan = self._embeds.plan(key)
        [start] = plan.starts
        profile = start.profile.with_options(
            enforce_eager=True, max_num_seqs=8, kv_cache_memory_bytes="128M"
        )
        return replace(plan, starts=(Start(start.engine, profile),))


@pytest.fixture(scope="module")
async def house(
    machine: Machine, toy: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    settings = isolated(tmp_path_factory.mktemp("pooling"))
    embeds = Launcher(Catalogue(), settings, machine, wanted="vllm")
    talks = Small(Launcher(Catalogue(), settings, machine, wanted="llamacpp"))
    async with serving(Both(embeds, talks), settings) as each, each.client() as client:
        await create_folder(client, "all-minilm", minilm.folder())
        await create(client, "talker", toy / "toy-q8_0.gguf")
        yield each


async def create_folder(client: httpx.AsyncClient, name: str, folder: Path) -> None:
    """Make a model of a folder of safetensors, as Ollama's clients do."""
    files = {}
    for path in sorted(folder.rglob("*.*")):  # noqa: ASYNC240 - small, and in a test
        if path.is_dir():
            continue
        data = path.read_bytes()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        (await client.post(f"/api/blobs/{digest}", content=data)).raise_for_status()
        files[path.relative_to(folder).as_posix()] = digest
    request = {"model": name, "files": files, "stream": False}
    (await client.post("/api/create", json=request)).raise_for_status()


async def embedded(house: House, *texts: str, **more: Any) -> dict[str, Any]:
    reply = await house.post("/api/embed", {"model": "all-minilm", "input": list(texts), **more})
    assert reply.status_code == 200, reply.text
    document: dict[str, Any] = reply.json()
    return document


def cosine(one: Sequence[float], two: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, two, strict=True)) / math.hypot(*one) / math.hypot(*two)


async def test_both_live_at_the_same_time(house: House) -> None:
    talk = {"model": "talker", "prompt": "hi", "stream": False, "options": {"num_predict": 8}}
    made, said = await asyncio.gather(embedded(house, QUESTION), house.post("/api/generate", talk))
    assert said.json()["done"] is True
    running = (await house.get("/api/ps")).json()["models"]
    assert {m["name"] for m in running} == {"all-minilm:latest", "talker:latest"}
    engines = {loaded.name: loaded.endpoint.engine for loaded in house.pool.loaded()}
    assert sorted(engines.values()) == ["llamacpp", "vllm"]
    assert len(made["embeddings"][0]) == 384


async def test_the_vector_is_the_known_one_and_of_length_one(house: House) -> None:
    made = await embedded(house, QUESTION)
    [vector] = made["embeddings"]
    assert math.hypot(*vector) == pytest.approx(1, abs=1e-6)
    # As Ollama's own tests know this model.
    assert vector[0] == pytest.approx(0.0101, abs=5e-4)
    assert made["prompt_eval_count"] == 8


async def test_a_batch_gives_what_each_gives_alone_in_its_order(house: House) -> None:
    texts = [*NEAR, FAR, QUESTION, "", "why " * 300]
    together = (await embedded(house, *texts))["embeddings"]
    alone = [(await embedded(house, text))["embeddings"][0] for text in texts[:4]]
    assert len(together) == len(texts)
    assert all(cosine(a, b) > 0.999 for a, b in zip(together, alone, strict=False))
    one, two, far = together[:3]
    assert cosine(one, two) > 0.5 > 0.2 > cosine(one, far)


async def test_what_is_too_long_is_cut_or_refused(house: House) -> None:
    long = "why " * 2000
    assert (await embedded(house, long))["prompt_eval_count"] <= 256
    request = {"model": "all-minilm", "input": long, "truncate": False}
    refused = await house.post("/api/embed", request)
    assert (refused.status_code, refused.json()["error"]) == (
        400,
        "the input length exceeds the context length",
    )
    narrow = await house.post(
        "/api/embed", {"model": "all-minilm", "input": QUESTION, "options": {"num_ctx": 2}}
    )
    assert narrow.status_code == 400
    assert "context length" in narrow.json()["error"]


async def test_dimensions_cut_the_vector_and_keep_its_length_one(house: House) -> None:
    whole = (await embedded(house, QUESTION))["embeddings"][0]
    cut = (await embedded(house, QUESTION, dimensions=64))["embeddings"][0]
    assert len(cut) == 64
    assert math.hypot(*cut) == pytest.approx(1, abs=1e-6)
    assert cosine(cut, whole[:64]) > 0.999


async def test_other_apis_give_the_same_vector(house: House) -> None:
    vector = (await embedded(house, QUESTION))["embeddings"][0]
    request = {"model": "all-minilm", "input": QUESTION}
    told = (await house.post("/v1/embeddings", request)).json()["data"][0]["embedding"]
    assert cosine(told, vector) > 0.999
    legacy = {"model": "all-minilm", "prompt": QUESTION}
    raw = (await house.post("/api/embeddings", legacy)).json()["embedding"]
    assert cosine(raw, vector) > 0.999
    # As the model made it, before any normalisation.
    assert raw[0] == pytest.approx(0.0664, abs=2e-3)


async def test_documents_are_ranked_by_what_they_mean(house: House) -> None:
    request = {"model": "all-minilm", "query": NEAR[0], "documents": [FAR, NEAR[1], QUESTION]}
    reply = await house.post("/v1/rerank", request)
    assert reply.status_code == 200, reply.text
    results = reply.json()["results"]
    assert results[0]["index"] == 1
    assert results[0]["relevance_score"] > 0.5 > results[1]["relevance_score"]


async def test_a_talking_model_does_not_embed_and_an_embedding_one_does_not_talk(
    house: House,
) -> None:
    wrong = await house.post("/api/embed", {"model": "talker", "input": "x"})
    assert wrong.status_code == 500
    assert "does not support embeddings" in wrong.json()["error"]
    talk = await house.post("/api/generate", {"model": "all-minilm", "prompt": "hi"})
    assert talk.status_code == 400
    assert "does not support generate" in talk.json()["error"]
