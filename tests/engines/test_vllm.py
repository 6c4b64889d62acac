"""vLLM, the real one: few starts, as each costs half a minute of a processor."""

from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.conftest import installed
from tests.engines.contract import EngineContract, Subject, answer, assert_gone, members
from vllama.engines import vllm_command
from vllama.engines.engine import Endpoint
from vllama.engines.vllm import Vllm
from vllama.machine import Machine
from vllama.profile import Scalar
from vllama.settings import Settings
from vllama.store import creation, names
from vllama.store.blobs import Blobs
from vllama.toy import adapter
from vllama.tuner.knobs_vllm_cpu import WORKER

QUICK: dict[str, Scalar] = {
    "max_model_len": 1024,
    "max_num_seqs": 4,
    "kv_cache_memory_bytes": "64M",
    "enforce_eager": True,
}


@pytest.fixture
def engine(settings: Settings) -> Vllm:
    real = installed("vllm", settings)
    assert isinstance(real, Vllm)
    return real


@pytest.mark.vllm
class TestVllm(EngineContract):
    @pytest.fixture
    def subject(self, engine: Vllm, toy: Path, machine: Machine) -> Subject:
        profile = engine.default(names.resolve(str(toy), engine.settings), machine)
        return Subject(engine, profile.with_options(**QUICK), engine.settings)


@pytest.mark.vllm
async def test_an_embedding_model_starts_a_pooling_server(
    engine: Vllm, toy_embedder: Path, machine: Machine
) -> None:
    model = names.resolve(str(toy_embedder), engine.settings)
    profile = engine.default(model, machine).with_options(**QUICK)
    async with engine.start(profile) as endpoint:
        body = {"model": endpoint.model, "input": ["one", "another one"]}
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            response = await client.post(f"{endpoint.base_url}/v1/embeddings", json=body)
        vectors = [each["embedding"] for each in response.json()["data"]]
        family = members(endpoint.life.pids)
    assert [len(v) for v in vectors] == [model.shape.hidden_size] * 2
    await assert_gone(family, endpoint.base_url)


@pytest.mark.vllm
async def test_the_shared_server_answers_with_counts_and_times(vllm_endpoint: Endpoint) -> None:
    assert await answer(vllm_endpoint)
    body = {"model": vllm_endpoint.model, "prompt": "Once upon a time", "max_tokens": 4}
    async with httpx.AsyncClient(
        base_url=vllm_endpoint.base_url, trust_env=False, timeout=60
    ) as client:
        document = (await client.post("/v1/completions", json=body)).json()
        reset = await client.post("/reset_prefix_cache")
    assert document["usage"]["prompt_tokens"] > 0
    assert document["metrics"]["generation_time_ms"] >= 0
    assert reset.status_code == 200


@pytest.mark.vllm
async def test_json_comes_without_white_space_and_so_ends(vllm_endpoint: Endpoint) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "count": {"enum": [1, 2]}},
        "required": ["ok", "count"],
        "additionalProperties": False,
    }
    body = {
        "model": vllm_endpoint.model,
        "messages": [{"role": "user", "content": "Is it?"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        "max_tokens": 64,
    }
    async with httpx.AsyncClient(
        base_url=vllm_endpoint.base_url, trust_env=False, timeout=60
    ) as client:
        response = await client.post("/v1/chat/completions", json=body)
    (choice,) = response.json()["choices"]
    assert choice["finish_reason"] == "stop"
    assert not set(choice["message"]["content"]) & set(" \n\t")


@pytest.mark.vllm
def test_the_start_taught_its_facts(vllm_endpoint: Endpoint) -> None:
    facts = vllm_endpoint.facts
    assert facts["max_model_len"] == 2048
    # 256 MiB of keys and values in 16 bit: 2 * layers * heads * size * 2 bytes a token.
    assert int(facts["kv_cache_tokens"]) > 100_000
    assert float(facts["init_s"]) > 0
    assert "--kv-cache-memory-bytes" in vllm_endpoint.command


@pytest.mark.vllm
async def test_without_a_process_for_computing_it_answers_alike(
    engine: Vllm, toy: Path, machine: Machine, vllm_endpoint: Endpoint
) -> None:
    profile = engine.default(names.resolve(str(toy), engine.settings), machine)
    alone = replace(profile.with_options(**QUICK), environment={WORKER: "0"})
    async with engine.start(alone) as endpoint:
        family = members(endpoint.life.pids)
        said = await answer(endpoint)
    assert said == await answer(vllm_endpoint)
    assert endpoint.facts.keys() == vllm_endpoint.facts.keys()
    assert int(endpoint.facts["kv_cache_tokens"]) > 10_000
    assert len(family) < len(members(vllm_endpoint.life.pids))
    await assert_gone(family, endpoint.base_url)


@pytest.mark.vllm
async def test_a_model_made_with_an_adapter_answers_with_it(
    engine: Vllm, toy: Path, tmp_path: Path, machine: Machine
) -> None:
    settings = engine.settings
    lora = adapter.make(tmp_path / "lora", toy)
    files = {
        path.name: Blobs(settings).add_file(path)
        for path in lora.iterdir()
        if path.suffix != ".gguf"
    }
    request = {"model": "tuned", "from": str(toy), "adapters": files}
    async for _ in creation.create(request, settings):
        pass
    profile = engine.default(names.resolve("tuned", settings), machine).with_options(**QUICK)
    async with engine.start(profile) as endpoint:
        assert endpoint.model == "tuned"
        adapted = await answer(endpoint)
        plain = await answer(replace(endpoint, model=f"tuned{vllm_command.BASE}"))
    assert adapted != plain
