"""A real llama.cpp: it serves, it teaches, and it says what is wrong; with each trap we know."""

import asyncio
import json
import socket
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from tests.engines.contract import EngineContract, Subject
from vllama.engines import llamacpp, llamacpp_log, llamacpp_options, llamacpp_server, process
from vllama.engines.engine import Endpoint
from vllama.engines.llamacpp import LlamaCpp
from vllama.errors import EngineFailed
from vllama.machine import Cpu, Gpu, Machine
from vllama.model import Model
from vllama.profile import Profile, Scalar
from vllama.settings import Settings
from vllama.store import creation, names
from vllama.store.blobs import Blobs
from vllama.toy import adapter
from vllama.uplink import Headers, UplinkClosed, UplinkPool

pytestmark = pytest.mark.llamacpp
GIB = 1024**3
PLAIN = Machine((), Cpu("test", 4, 4), 16 * GIB, 8 * GIB)


@pytest.fixture
def engine(settings: Settings) -> LlamaCpp:
    return llamacpp.from_settings(settings)


@pytest.fixture
def model(toy: Path, settings: Settings) -> Model:
    return names.resolve(str(toy), settings)


class TestLlamaCpp(EngineContract):
    """What every engine must do."""

    @pytest.fixture
    def subject(self, engine: LlamaCpp, model: Model, settings: Settings) -> Subject:
        return Subject(engine, profile(model), settings)


def profile(model: Model, **options: Scalar) -> Profile:
    return Profile("test", "llamacpp", model.name, {"n_ctx": 2048, "threads": 1, **options})


async def ask(endpoint: Endpoint, path: str, body: Mapping[str, object]) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        return await client.post(endpoint.base_url + path, json=body)


async def failure(engine: LlamaCpp, wrong: Profile) -> EngineFailed:
    with pytest.raises(EngineFailed) as failed:
        async with engine.start(wrong):
            pass
    return failed.value


async def test_every_slot_of_the_default_has_the_models_whole_context(
    engine: LlamaCpp, model: Model
) -> None:
    async with engine.start(engine.default(model, PLAIN)) as endpoint:
        assert endpoint.facts["slots"] == 4
        assert endpoint.facts["n_ctx_slot"] == model.shape.context_length
        long = [7] * (model.shape.context_length // 4 + 100)
        body = {"prompt": long, "max_tokens": 1, "model": endpoint.model}
        assert (await ask(endpoint, "/v1/completions", body)).status_code == 200


async def test_without_a_shared_pool_the_context_is_divided_and_the_facts_say_so(
    engine: LlamaCpp, model: Model
) -> None:
    async with engine.start(profile(model, n_parallel=4, kv_unified=False)) as endpoint:
        assert endpoint.facts["n_ctx_slot"] == 512
        assert endpoint.facts["kv_cache_tokens"] == 2048
        answer = await ask(endpoint, "/v1/completions", {"prompt": [7] * 600, "max_tokens": 1})
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "exceed_context_size_error"


async def test_options_arrive_in_the_server(engine: LlamaCpp, model: Model) -> None:
    options = profile(
        model, n_parallel=2, kv_unified=True, n_batch=256, n_ubatch=128, cache_type_k="q8_0",
        cache_type_v="q8_0", flash_attn="on", cache_reuse=32, threads_batch=1,
    )  # fmt: skip
    async with engine.start(options) as endpoint:
        assert endpoint.facts["slots"] == 2
        assert endpoint.facts["threads"] == 1
        per_token = model.shape.kv_bytes_per_token
        assert endpoint.facts["kv_cache_bytes"] == 2048 * per_token * 34 // 64
        async with httpx.AsyncClient(trust_env=False) as client:
            props = (await client.get(f"{endpoint.base_url}/props")).json()
            slots = (await client.get(f"{endpoint.base_url}/slots")).json()
            metrics = (await client.get(f"{endpoint.base_url}/metrics")).text
        assert props["total_slots"] == len(slots) == 2
        assert "llamacpp:tokens_predicted_total" in metrics


async def test_no_web_page_may_read_its_answers(llamacpp_endpoint: Endpoint) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(
            f"{llamacpp_endpoint.base_url}/v1/models", headers={"Origin": "http://evil.example"}
        )
    assert answer.headers.get("access-control-allow-origin", "") == ""


class Whole:
    """A sink that waits for the whole answer."""

    def __init__(self) -> None:
        self.body = b""
        self.done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def on_head(self, status: int, headers: Headers) -> None:
        assert status == 200

    def on_body(self, piece: bytes) -> None:
        self.body += piece

    def on_flush(self) -> None:
        pass

    def on_end(self, error: Exception | None) -> None:
        if error is None:
            self.done.set_result(self.body)
        else:
            self.done.set_exception(error)


async def test_a_connection_that_it_closes_after_a_stream_is_safe_to_send_again(
    llamacpp_endpoint: Endpoint,
) -> None:
    """llama.cpp announces keep-alive, and closes all the same."""
    body = json.dumps({"prompt": "hi", "max_tokens": 3, "stream": True, "model": "x"}).encode()
    pool = UplinkPool(llamacpp_endpoint.base_url)
    whole = 0
    try:
        while whole < 4:
            sink = Whole()
            (await pool.acquire()).send(pool.request(b"POST", b"/v1/completions", body), sink)
            (answer,) = await asyncio.gather(sink.done, return_exceptions=True)
            if isinstance(answer, bytes):
                assert answer.endswith(b"data: [DONE]\n\n")
                whole += 1
            else:
                assert isinstance(answer, UplinkClosed)
                assert answer.untouched
    finally:
        pool.close()


async def test_a_quantized_v_cache_without_flash_attention_is_a_bad_option(
    engine: LlamaCpp, model: Model
) -> None:
    failed = await failure(engine, profile(model, cache_type_v="q8_0", flash_attn="off"))
    assert failed.kind == "bad_option"
    assert failed.message == "a quantized V cache needs flash attention"
    assert failed.remedy == "Set flash_attn to on or auto, or cache_type_v to f16."


async def test_too_many_slots_are_a_bad_option(engine: LlamaCpp, model: Model) -> None:
    failed = await failure(engine, profile(model, n_parallel=600))
    assert (failed.kind, failed.message) == ("bad_option", "llama.cpp takes at most 256 slots")


async def test_an_unknown_option_or_value_is_refused_before_anything_is_launched(
    engine: LlamaCpp, model: Model
) -> None:
    failed = await failure(engine, profile(model, max_num_seqs=3))
    assert (failed.kind, failed.phase) == ("bad_option", "parse")
    failed = await failure(engine, profile(model, flash_attn="perhaps"))
    assert failed.remedy == "There are: on, off, auto."


async def test_a_context_beyond_the_memory_is_refused_rather_than_killed(
    engine: LlamaCpp, model: Model
) -> None:
    failed = await failure(engine, profile(model, n_ctx=2_000_000_000))
    assert failed.kind == "out_of_memory"
    assert "GiB are free" in failed.message


async def test_a_file_that_is_cut_short_is_named_as_such(
    engine: LlamaCpp, model: Model, tmp_path: Path
) -> None:
    assert model.gguf is not None
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(model.gguf.read_bytes()[:-1000])
    broken = replace(model, gguf=cut, name=str(cut), path=cut)
    async with asyncio.timeout(60):
        failed = await failure_of_files(engine, broken)
    assert failed.kind == "bad_model"
    assert "cut short" in failed.message


async def test_an_architecture_it_does_not_know_is_told(
    engine: LlamaCpp, model: Model, tmp_path: Path
) -> None:
    assert model.gguf is not None
    strange = tmp_path / "strange.gguf"
    strange.write_bytes(model.gguf.read_bytes().replace(b"qwen2", b"qwenz"))
    failed = await failure_of_files(engine, replace(model, gguf=strange))
    assert (failed.kind, "architecture 'qwenz'" in failed.message) == ("bad_model", True)


async def failure_of_files(engine: LlamaCpp, model: Model) -> EngineFailed:
    """What llama.cpp itself says of a file, past the checks of our own reader."""
    runner = llamacpp_server.find(engine._settings)
    assert model.gguf is not None
    command = runner.command(model.gguf, "broken", process.free_port(), {})
    async with process.launch(
        command, name="test", explain=llamacpp_log.explain,
        environment=engine._settings.environment,
    ) as child:  # fmt: skip
        return await child.ended()


async def test_a_port_that_was_taken_meanwhile_is_replaced_by_another(
    engine: LlamaCpp, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        ports = iter([holder.getsockname()[1], process.free_port()])
        monkeypatch.setattr(process, "free_port", lambda: next(ports))
        async with engine.start(profile(model)) as endpoint:
            assert not endpoint.base_url.endswith(f":{holder.getsockname()[1]}")


async def test_a_killed_server_is_noticed_at_once(engine: LlamaCpp, model: Model) -> None:
    async with engine.start(profile(model)) as endpoint:
        for pid in endpoint.life.pids[2:]:
            psutil.Process(pid).kill()
        failed = await asyncio.wait_for(endpoint.life.ended(), 30)
        assert failed.kind == "out_of_memory"  # what SIGKILL from nowhere means most often


async def test_an_embedding_model_embeds_long_inputs(
    engine: LlamaCpp, toy_embedder: Path, settings: Settings
) -> None:
    model = names.resolve(str(toy_embedder), settings)
    async with engine.start(engine.default(model, PLAIN)) as endpoint:
        body = {"input": ["the sky is blue", "the sky " * 300], "model": endpoint.model}
        answer = await ask(endpoint, "/v1/embeddings", body)
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["data"]) == 2


@pytest.mark.parametrize("kv_unified", [True, False])
async def test_texts_embedded_together_get_the_vectors_that_each_gets_alone(
    engine: LlamaCpp, toy_embedder: Path, settings: Settings, kv_unified: bool
) -> None:
    """llama.cpp itself gets them wrong without one pool, where they differ in length."""
    model = names.resolve(str(toy_embedder), settings)
    wanted = engine.default(model, PLAIN).with_options(n_parallel=2, kv_unified=kv_unified)
    texts = ["hello", "a longer text of several words", "world"]

    async def vectors(endpoint: Endpoint, given: list[str]) -> list[list[float]]:
        answer = await ask(endpoint, "/v1/embeddings", {"input": given, "model": endpoint.model})
        return [each["embedding"] for each in answer.json()["data"]]

    async with engine.start(wanted) as endpoint:
        together = await vectors(endpoint, texts)
        for text, vector in zip(texts, together, strict=True):
            (alone,) = await vectors(endpoint, [text])
            assert vector == pytest.approx(alone, abs=1e-3)


async def test_an_adapter_changes_the_words(
    engine: LlamaCpp, model: Model, toy: Path, tmp_path: Path
) -> None:
    made = adapter.make(tmp_path / "adapter", toy)
    body = {"prompt": "The sky", "max_tokens": 8, "temperature": 0}
    said = []
    for options in ({}, {"lora": str(made / "adapter.gguf")}):
        async with engine.start(profile(model, **options)) as endpoint:
            answer = await ask(endpoint, "/v1/completions", body)
            said.append(answer.json()["choices"][0]["text"])
    assert said[0] != said[1]


async def test_a_model_that_was_made_with_an_adapter_is_served_with_it(
    engine: LlamaCpp, toy: Path, settings: Settings, tmp_path: Path
) -> None:
    made = adapter.make(tmp_path / "adapter", toy)
    blobs = Blobs(settings)

    files = {"toy.gguf": blobs.add_file(toy / "toy-f16.gguf")}
    adapters = {"adapter.gguf": blobs.add_file(made / "adapter.gguf")}
    async for _ in creation.create({"model": "plain", "files": files}, settings):
        pass
    async for _ in creation.create(
        {"model": "tuned", "from": "plain", "adapters": adapters}, settings
    ):
        pass
    wanted = Profile("test", "llamacpp", "tuned", {"n_ctx": 1024, "threads": 1})
    async with engine.start(wanted) as endpoint:
        async with httpx.AsyncClient(trust_env=False) as client:
            loaded = (await client.get(f"{endpoint.base_url}/lora-adapters")).json()
        assert [one["scale"] for one in loaded] == [1.0]


@pytest.fixture
def program(settings: Settings, tmp_path: Path) -> LlamaCpp:
    """The engine where a `llama-server` is named."""
    path = tmp_path / "llama-server"
    fake = Path(__file__).with_name("fake_llama_server.py")
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {fake} "$@"\n')
    path.chmod(0o755)
    return LlamaCpp(replace(settings, llama_server=path))


async def test_a_llama_server_gets_the_same_options_as_flags(
    program: LlamaCpp, model: Model
) -> None:
    options = profile(
        model, n_parallel=2, kv_unified=False, cache_type_k="q8_0", flash_attn="on",
        cont_batching=True, fit="off",
    )  # fmt: skip
    async with program.start(options) as endpoint:
        assert endpoint.version == "llama-server 6543"
        assert endpoint.facts["slots"] == 2
        assert endpoint.facts["n_ctx_slot"] == 1024
        words = list(endpoint.command)
        assert words[words.index("--parallel") + 1] == "2"
        assert words[words.index("--cache-type-k") + 1] == "q8_0"
        assert {"--no-kv-unified", "--cont-batching"} < set(words)


def test_a_llama_server_is_asked_which_flags_it_has(program: LlamaCpp) -> None:
    assert {"n_parallel", "n_cpu_moe", "kv_unified"} < program.accepts()
    assert "spec_type" not in program.accepts()


async def test_a_flag_it_does_not_have_is_refused(program: LlamaCpp, model: Model) -> None:
    failed = await failure(program, profile(model, spec_type="ngram-mod"))
    assert failed.kind == "bad_option"


def test_a_pool_gives_one_whole_context_and_something_to_each_further_slot(model: Model) -> None:
    long = replace(model, shape=replace(model.shape, context_length=131_072))
    assert llamacpp.context(long, PLAIN, 0) == 131_072 + 3 * 8192
    assert llamacpp.context(long, PLAIN, 4096) == 4 * 4096
    assert llamacpp.context(model, PLAIN, 1_000_000) == 4 * model.shape.context_length


def test_a_pool_is_no_larger_than_half_of_what_memory_the_weights_leave(model: Model) -> None:
    big = replace(
        model,
        shape=replace(
            model.shape, context_length=131_072, weight_bytes=6 * GIB, kv_bytes_per_token=131_072
        ),
    )
    assert llamacpp.context(big, PLAIN, 0) == 1 * GIB // 131_072
    gpu = Gpu(0, "GPU", "u", 24 * GIB, 22 * GIB)
    assert llamacpp.context(big, replace(PLAIN, gpus=(gpu,)), 0) == 8 * GIB // 131_072


def test_every_option_has_a_flag_and_a_field_that_no_other_has() -> None:
    options = list(llamacpp_options.OPTIONS.values())
    assert len({o.flag for o in options}) == len(options)
    paths = [o.path for o in options if o.path]
    assert len(set(paths)) == len(paths)


def test_the_same_options_become_flags_or_fields() -> None:
    options: dict[str, Scalar] = {
        "n_parallel": 8, "kv_unified": False, "flash_attn": "on", "cache_type_k": "q8_0",
        "embeddings": False, "cont_batching": True, "fit": "off", "spec_type": "ngram-mod",
        "tensor_split": "3,1",
    }  # fmt: skip
    assert llamacpp_options.flags(options) == [
        "--parallel", "8", "--no-kv-unified", "--flash-attn", "on", "--cache-type-k", "q8_0",
        "--cont-batching", "--fit", "off", "--spec-type", "ngram-mod", "--tensor-split", "3,1",
    ]  # fmt: skip
    assert llamacpp_options.fields(options) == {
        "n_parallel": 8,
        "kv_unified": False,
        "flash_attn_type": "LLAMA_FLASH_ATTN_TYPE_ENABLED",
        "cache_type_k": "GGML_TYPE_Q8_0",
        "embedding": False,
        "cont_batching": True,
        "fit_params": False,
        "speculative.types": ["COMMON_SPECULATIVE_TYPE_NGRAM_MOD"],
        "tensor_split": [3.0, 1.0],
    }


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        ("error: invalid argument: --nope", "bad_option", "does not know the flag --nope"),
        ("ggml_cuda: cudaMalloc failed: out of memory", "out_of_memory", "ran out of memory"),
        ("[the process ended: killed by SIGKILL]", "out_of_memory", "ran out of memory"),
        ("0.1 E llama_init: something odd", "crash", "something odd"),
    ],
)
def test_last_words_become_a_cause(line: str, kind: str, message: str) -> None:
    failed = llamacpp_log.explain(["0.0 I srv init: loading model", line])
    assert (failed.kind, failed.phase) == (kind, "load")
    assert message in failed.message
