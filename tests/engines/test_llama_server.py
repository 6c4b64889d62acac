"""The program `llama-server`: each build gets the flags that its own help names.

The tests of a real one run where `llama-server` is on the PATH or named.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from vllama import hardware
from vllama.engines import llamacpp, llamacpp_log, probe, process
from vllama.engines.attached import Attached
from vllama.engines.engine import Endpoint
from vllama.engines.llamacpp import LlamaCpp
from vllama.engines.llamacpp_program import Program
from vllama.engines.llamacpp_server import find
from vllama.errors import EngineFailed, EngineMissing
from vllama.machine import Cpu, Machine
from vllama.model import Model
from vllama.profile import Profile, Scalar
from vllama.settings import Settings
from vllama.store import names

GIB = 1024**3
PLAIN = Machine((), Cpu("test", 4, 4), 16 * GIB, 8 * GIB)
# As builds of spring 2025 and of autumn 2026 print them, in our words.
OLD = """\
----- common params -----

-fa,   --flash-attn                     turn flash attention on
-m,    --model FNAME                    the file
-np,   --parallel N                     slots
-c,    --ctx-size N                     tokens
-t,    --threads N                      threads
-cb,   --cont-batching                  batches
-nocb, --no-cont-batching               no batches
--no-context-shift                      never shift
--embedding, --embeddings               embed only
--reranking, --rerank                   rank only
--pooling {none,mean,cls,last,rank}     how vectors are joined
--jinja                                 use a template
--draft-max, --draft, --draft-n N       tokens to guess
"""
NEW = """\
-fa,   --flash-attn [on|off|auto]       whether, or 'auto'
-m,    --model FNAME                    the file
-np,   --parallel N                     slots
-c,    --ctx-size N                     tokens
-t,    --threads N                      threads
-cb,   --cont-batching, -nocb, --no-cont-batching
                                        batches or not
-kvu,  --kv-unified, -no-kvu, --no-kv-unified
                                        one pool
--context-shift, --no-context-shift     shift or not
--embedding, --embeddings               embed only
--rerank, --reranking                   rank only
--pooling {none,mean,cls,last,rank}     how vectors are joined
--jinja, --no-jinja                     use a template or not
--cors-origins ORIGINS                  who may read
--draft, --draft-n, --draft-max N       the argument has been removed. use
                                        --spec-draft-n-max instead
--spec-draft-n-max N                    tokens to guess
"""


# llama.cpp makes models call tools in the form that it recognises in their template.
HERMES = (
    "{% if tools %}<|im_start|>system\nYou may call functions. <tools>\n"
    "{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}</tools>\n"
    'Answer <tool_call>\n{"name": <name>, "arguments": <arguments>}\n</tool_call><|im_end|>\n'
    "{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build(folder: Path, text: str, version: str = "version: 6543 (c0ffee12)") -> Program:
    """A program that prints this help and nothing else."""
    path = folder / "llama-server"
    (folder / "help").write_text(text)
    path.write_text(f"#!/bin/sh\n[ $1 = --help ] && exec cat {folder / 'help'}\necho '{version}'\n")
    path.chmod(0o755)
    return Program(path)


def flags(program: Program, **options: Scalar) -> list[str]:
    command = program.command(Path("/m.gguf"), "toy", 8080, options)
    return command[command.index("--slots") + 1 :]


@pytest.mark.parametrize(
    ("options", "old", "new"),
    [
        ({"flash_attn": "on"}, ["--jinja", "--flash-attn"], ["--flash-attn", "on"]),
        ({"flash_attn": "off"}, ["--jinja"], ["--flash-attn", "off"]),
        ({"flash_attn": "auto"}, ["--jinja"], ["--flash-attn", "auto"]),
        ({"context_shift": False}, ["--jinja", "--no-context-shift"], ["--no-context-shift"]),
        ({"context_shift": True}, ["--jinja"], ["--context-shift"]),
        ({"cont_batching": False}, ["--jinja", "--no-cont-batching"], ["--no-cont-batching"]),
        ({"jinja": False}, [], ["--no-jinja"]),
        ({"spec_draft_n_max": 4}, ["--jinja", "--draft-max", "4"], ["--spec-draft-n-max", "4"]),
        ({"embeddings": True, "pooling": "rank"}, ["--jinja", "--rerank", "--pooling", "rank"],
         ["--rerank", "--pooling", "rank"]),
    ],
)  # fmt: skip
def test_an_option_is_spelt_as_the_build_spells_it(
    options: dict[str, Scalar], old: list[str], new: list[str], tmp_path: Path
) -> None:
    assert flags(build(tmp_path, OLD), **options) == old
    (tmp_path / "new").mkdir()
    assert flags(build(tmp_path / "new", NEW), **options) == ["--cors-origins", "", *new]


def test_a_flag_that_is_only_named_as_removed_is_not_there(tmp_path: Path) -> None:
    accepted = build(tmp_path, NEW.replace("--spec-draft-n-max N ", "--other N ")).accepts()
    assert "spec_draft_n_max" not in accepted
    assert {"flash_attn", "kv_unified", "context_shift"} <= accepted


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("version: 6543 (c0ffee12)", "llama-server 6543"),
        ("version: 0.1.0-dev (build 10434, commit c0ffee1)", "llama-server 10434"),
        ("version: 0.1.0-dev (build 1, commit c0ffee1)", "llama-server 0.1.0-dev"),
    ],
)
def test_its_version_is_its_build_where_it_knows_that(
    said: str, version: str, tmp_path: Path
) -> None:
    assert build(tmp_path, NEW, said).version() == version


def test_a_program_that_does_not_run_is_named_with_what_it_said(tmp_path: Path) -> None:
    broken = build(tmp_path, "error while loading shared libraries: libgomp.so.1")
    with pytest.raises(EngineMissing, match=r"does not run as a llama-server: .*libgomp") as caught:
        broken.accepts()
    assert "VLLAMA_LLAMA_SERVER" in caught.value.remedy


def test_the_default_of_a_build_that_divides_its_context_gives_each_slot_a_whole_one(
    toy: Path, settings: Settings, tmp_path: Path
) -> None:
    engine = LlamaCpp(replace(settings, llama_server=build(tmp_path, OLD).path))
    model = names.resolve(str(toy), settings)
    options = engine.default(model, PLAIN).options
    assert set(options) <= engine.accepts()
    assert (options["n_parallel"], options["n_ctx"]) == (4, 4 * model.shape.context_length)
    heavy = replace(
        model, shape=replace(model.shape, weight_bytes=6 * GIB, kv_bytes_per_token=131_072)
    )
    slots, tokens = llamacpp.divided(heavy, PLAIN, 4096)
    assert (slots, tokens) == (2, 8192)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[the process ended: killed by SIGILL]", "built for another processor"),
        ("llama-server: error while loading shared libraries: libgomp.so.1: cannot open",
         "misses the library libgomp.so.1"),
    ],
)  # fmt: skip
def test_a_build_for_another_machine_is_told_from_a_crash(line: str, message: str) -> None:
    assert message in llamacpp_log.explain([line]).message


@pytest.fixture
def real(settings: Settings) -> LlamaCpp:
    """The engine on a real `llama-server`."""
    if not isinstance(find(settings), Program):
        pytest.skip("no llama-server is on the PATH or named")
    return LlamaCpp(settings)


@pytest.fixture
def model(toy: Path, settings: Settings) -> Model:
    return names.resolve(str(toy), settings)


async def ask(endpoint: Endpoint, path: str, body: Mapping[str, Any] | None = None) -> Any:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        url = endpoint.base_url + path
        answer = await (client.get(url) if body is None else client.post(url, json=body))
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize("flash", ["on", "off", "auto"])
async def test_a_real_one_takes_every_option_that_it_is_said_to_take(
    flash: str, real: LlamaCpp, model: Model
) -> None:
    wanted: dict[str, Scalar] = {
        "n_parallel": 2, "n_ctx": 2048, "threads": 1, "threads_batch": 1, "threads_http": 2,
        "flash_attn": flash, "cache_type_k": "q8_0", "kv_unified": False, "n_batch": 256,
        "n_ubatch": 128, "context_shift": False, "cont_batching": True, "cache_prompt": True,
        "cache_reuse": 16, "cache_ram": 0, "load_mode": "dio", "warmup": False, "fit": "off",
        "slot_prompt_similarity": 0.2, "poll": 0, "n_gpu_layers": 0, "jinja": True,
        "reasoning_format": "none", "swa_full": True, "kv_offload": False,
        "spec_type": "ngram-mod",
    }  # fmt: skip
    options = {k: v for k, v in wanted.items() if k in real.accepts()}
    async with real.start(Profile("t", "llamacpp", model.name, options)) as endpoint:
        props = (await ask(endpoint, "/props")).json()
        slots = (await ask(endpoint, "/slots")).json()
        metrics = (await ask(endpoint, "/metrics")).text
        assert endpoint.version.startswith("llama-server ")
    assert props["total_slots"] == len(slots) == 2
    assert slots[0]["n_ctx"] == 1024
    assert "llamacpp:tokens_predicted_total" in metrics


async def test_a_real_one_keeps_to_a_schema_and_calls_tools(real: LlamaCpp, model: Model) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    function = {"name": "pick", "description": "Pick.", "parameters": schema}
    body = {"model": "toy", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 200}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    call = {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}
    profile = real.default(model, hardware.detect()).with_options(threads=1)
    profile = profile.with_options(chat_template=HERMES)
    async with real.start(profile) as endpoint:
        held = await ask(endpoint, "/v1/chat/completions", {**body, "response_format": form})
        plain = (await ask(endpoint, "/v1/chat/completions", {**body, "max_tokens": 1})).json()
        called = (await ask(endpoint, "/v1/chat/completions", {**body, **call})).json()
    assert json.loads(held.json()["choices"][0]["message"]["content"])["n"] in (1, 2)
    assert called["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"] + 20
    # Random weights may say nothing but line ends, which newer builds let them.
    for made in called["choices"][0]["message"].get("tool_calls", ()):
        assert made["function"]["name"] == "pick"
        assert json.loads(made["function"]["arguments"])["n"] in (1, 2)


async def test_a_router_of_several_models_is_attached_by_the_name_of_each(
    real: LlamaCpp, toy: Path, settings: Settings, tmp_path: Path
) -> None:
    """vllama starts one server for each model; a router that somebody runs is attached."""
    program = find(settings)
    assert isinstance(program, Program)
    if "--models-dir" not in program.help():
        pytest.skip("this build has no router")
    for name in ("one", "two"):
        (tmp_path / f"{name}.gguf").symlink_to(toy / "toy-q8_0.gguf")
    port = process.free_port()
    command = [str(program.path), "--models-dir", str(tmp_path), "--port", str(port), "-t", "1"]
    url = f"http://127.0.0.1:{port}"
    environment = settings.environment
    async with process.launch(
        command, name="router", explain=llamacpp_log.explain, environment=environment
    ) as child:
        await process.wait_ready(child, lambda: probe.is_healthy(url), stall_s=60, what="it")
        attached = Attached(url, "two")
        async with attached.start(attached.profile()) as endpoint:
            body = {"model": endpoint.model, "prompt": "hi", "max_tokens": 2}
            answer = (await ask(endpoint, "/v1/completions", body)).json()
        absent = Attached(url, "three")
        with pytest.raises(EngineFailed, match="has no model 'three'"):
            async with absent.start(absent.profile()):
                pass
    assert answer["model"] == "two"


async def test_variables_that_mean_flags_to_it_do_not_reach_a_real_one(
    settings: Settings, real: LlamaCpp, model: Model
) -> None:
    strange = {"LLAMA_API_KEY": "secret", "LLAMA_ARG_N_PARALLEL": "7", "LLAMA_ARG_CTX_SIZE": "512"}
    engine = LlamaCpp(replace(settings, environment={**settings.environment, **strange}))
    options: dict[str, Scalar] = {"threads": 1, "n_ctx": 1024}
    assert real.accepts() == engine.accepts()
    async with engine.start(Profile("t", "llamacpp", model.name, options)) as endpoint:
        props = (await ask(endpoint, "/props")).json()
    assert props["total_slots"] != 7


async def test_a_real_one_embeds_and_ranks(
    real: LlamaCpp, toy_embedder: Path, settings: Settings
) -> None:
    if "kv_unified" not in real.accepts():
        pytest.skip("builds of spring 2025 abort on this embedder: an assertion in its softmax")
    embedder = names.resolve(str(toy_embedder), settings)
    profile = real.default(embedder, PLAIN).with_options(threads=1)
    async with real.start(profile) as endpoint:
        body = {"model": "toy", "input": ["the sky is blue", "grass"]}
        assert len((await ask(endpoint, "/v1/embeddings", body)).json()["data"]) == 2
    async with real.start(profile.with_options(pooling="rank")) as endpoint:
        body = {"model": "toy", "query": "sky", "documents": ["the sky is blue", "grass"]}
        ranked = (await ask(endpoint, "/v1/rerank", body)).json()["results"]
    assert {one["index"] for one in ranked} == {0, 1}


async def test_a_real_ones_refusal_of_a_file_names_the_cause(
    real: LlamaCpp, model: Model, tmp_path: Path
) -> None:
    with pytest.raises(EngineFailed) as caught:
        async with real.start(
            Profile("t", "llamacpp", model.name, {"cache_type_v": "q8_0", "flash_attn": "off"})
        ):
            pass
    assert (caught.value.kind, "flash attention" in caught.value.message) == ("bad_option", True)


def test_several_devices_kv_buffers_are_added_up() -> None:
    log = [
        "load_model: initializing, n_slots = 4, n_ctx_slot = 2048, kv_unified = 'false'",
        "llama_kv_cache:      CUDA0 KV buffer size =    12.00 MiB",
        "llama_kv_cache:      CUDA1 KV buffer size =     4.00 MiB",
    ]
    facts = llamacpp_log.facts(log)
    assert facts == {
        "slots": 4, "n_ctx_slot": 2048, "kv_unified": 0, "kv_cache_bytes": 16 * 1024 * 1024,
    }  # fmt: skip
