"""What Ollama's clients count on beyond single answers, on a real llama.cpp."""

import asyncio
import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.server.fakes import until
from tests.server.house import House

pytestmark = pytest.mark.llamacpp
FEW = {"temperature": 0, "seed": 1, "num_predict": 5}
HELLO = [{"role": "user", "content": "hello"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_time",
            "description": "t",
            "parameters": {
                "type": "object",
                "properties": {"tz": {"type": "string"}},
                "required": ["tz"],
            },
        },
    }
]
# Forces a tool call out of random weights.
CALL = {
    "type": "object",
    "properties": {
        "name": {"const": "get_time"},
        "arguments": {
            "type": "object",
            "properties": {"tz": {"enum": ["UTC"]}},
            "required": ["tz"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "arguments"],
    "additionalProperties": False,
}


async def ask(house: House, route: str, **body: Any) -> dict[str, Any]:
    response = await house.post(f"/api/{route}", {"stream": False, **body})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def running(house: House) -> dict[str, Any]:
    models = (await house.get("/api/ps")).json()["models"]
    return {each["name"]: each for each in models}


async def test_an_empty_prompt_loads_and_a_keep_alive_of_zero_unloads(ollama_like: House) -> None:
    loaded = await ollama_like.post("/api/generate", {"model": "m", "keep_alive": "5m"})
    assert loaded.headers["content-type"] == "application/json; charset=utf-8"
    assert loaded.json()["done_reason"] == "load"
    assert "eval_count" not in loaded.json()
    entry = (await running(ollama_like))["m:latest"]
    left = datetime.fromisoformat(entry["expires_at"]) - datetime.now().astimezone()
    assert timedelta(minutes=4) < left <= timedelta(minutes=5)
    assert entry["context_length"] >= 4
    assert entry["size"] >= entry["size_vram"] >= 0
    for keep_alive in (0, "0", "0s", "0m"):
        gone = await ask(ollama_like, "generate", model="m", keep_alive=keep_alive)
        assert (gone["done_reason"], gone["response"]) == ("unload", "")
    assert "m:latest" not in await running(ollama_like)
    chat = await ask(ollama_like, "chat", model="m", messages=[])
    assert chat["message"] == {"role": "assistant", "content": ""}
    assert chat["done_reason"] == "load"


async def test_a_keep_alive_stays_until_another_is_given(ollama_like: House) -> None:
    await ask(ollama_like, "generate", model="m", prompt="x", options=FEW, keep_alive=-1)
    await ask(ollama_like, "generate", model="m", prompt="x", options=FEW)
    expires = datetime.fromisoformat((await running(ollama_like))["m:latest"]["expires_at"])
    assert expires.year > 2300
    await ask(ollama_like, "generate", model="m", prompt="x", options=FEW, keep_alive="10m")
    expires = datetime.fromisoformat((await running(ollama_like))["m:latest"]["expires_at"])
    assert expires - datetime.now().astimezone() < timedelta(minutes=11)


async def test_the_context_that_comes_out_continues_when_it_goes_in(ollama_like: House) -> None:
    first = await ask(ollama_like, "generate", model="m", prompt="hello", options=FEW)
    second = await ask(
        ollama_like, "generate", model="m", prompt="go on", context=first["context"], options=FEW
    )
    assert second["context"][: len(first["context"])] == first["context"]
    assert second["prompt_eval_count"] > len(first["context"])


async def test_raw_takes_the_prompt_as_it_is(ollama_like: House) -> None:
    raw = await ask(ollama_like, "generate", model="m", prompt="hello", raw=True, options=FEW)
    templated = await ask(ollama_like, "generate", model="m", prompt="hello", options=FEW)
    assert "context" not in raw
    assert raw["prompt_eval_count"] < templated["prompt_eval_count"]


async def test_a_template_and_a_system_text_of_the_request_are_used(ollama_like: House) -> None:
    shown = await ask(
        ollama_like, "generate", model="m", prompt="hi", system="S", _debug_render_only=True,
        template="<{{ .System }}|{{ .Prompt }}>",
    )  # fmt: skip
    assert shown["_debug_info"]["rendered_template"] == "<S|hi>"
    assert not shown["done"]


async def test_a_suffix_is_filled_in_by_the_models_template(ollama_like: House) -> None:
    shown = await ask(
        ollama_like, "generate", model="f", prompt="def f(", suffix="return", options=FEW,
        _debug_render_only=True,
    )  # fmt: skip
    assert shown["_debug_info"]["rendered_template"] == "def f(<SUF>return<MID>"
    answer = await ask(
        ollama_like, "generate", model="f", prompt="def f(", suffix="return", options=FEW
    )
    assert answer["eval_count"] == 5


async def test_the_name_in_any_case_and_with_tag_works_and_is_echoed(
    ollama_like: House,
) -> None:
    for name in ("m", "M", "m:latest", "m:LATEST"):
        answer = await ask(ollama_like, "generate", model=name, prompt="x", options=FEW)
        assert answer["model"] == name
    assert [each.name for each in ollama_like.pool.loaded()].count("m") == 1
    assert not [each for each in ollama_like.pool.loaded() if each.name in ("M", "m:LATEST")]


async def test_field_names_match_whatever_their_case(ollama_like: House) -> None:
    answer = await ask(ollama_like, "generate", MODEL="m", Prompt="x", OPTIONS=FEW)
    assert answer["done"]


@pytest.mark.parametrize("most", [0, -1, -2])
async def test_an_answer_without_a_limit_ends_at_its_stop_sequence(
    ollama_like: House, most: int
) -> None:
    first = await ask(ollama_like, "generate", model="m", prompt="x", options=FEW)
    stop = first["response"][2:4]
    answer = await ask(
        ollama_like, "generate", model="m", prompt="x",
        options={**FEW, "num_predict": most, "stop": [stop]},
    )  # fmt: skip
    assert answer["done_reason"] == "stop"
    assert stop not in answer["response"]
    assert first["response"].startswith(answer["response"])


async def test_a_seed_makes_answers_repeatable(ollama_like: House) -> None:
    options = {"temperature": 1.5, "seed": 42, "num_predict": 12}
    texts = {
        (await ask(ollama_like, "generate", model="m", prompt="x", options=options))["response"]
        for _ in range(2)
    }
    assert len(texts) == 1


async def test_a_penalty_may_look_back_over_the_whole_context(ollama_like: House) -> None:
    for num_ctx in (None, 512):
        options = {**FEW, "repeat_last_n": -1, "num_keep": -1, "num_ctx": num_ctx}
        answer = await ask(ollama_like, "generate", model="m", prompt="x", options=options)
        assert answer["eval_count"] == 5


async def test_a_client_that_leaves_frees_the_engine(ollama_like: House) -> None:
    request = {"model": "m", "prompt": "go on", "options": {"num_predict": 3000}}
    async with (
        ollama_like.client() as client,
        client.stream("POST", "/api/generate", json=request) as response,
    ):
        async for _ in response.aiter_lines():
            break
    answer = await ask(ollama_like, "generate", model="m", prompt="x", options=FEW)
    assert answer["done"]
    # The last lease ends just after its answer has left.
    await until(lambda: not any(each.users for each in ollama_like.pool.loaded()))


async def test_format_json_gives_an_object_and_a_schema_is_kept(ollama_like: House) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    answer = await ask(
        ollama_like, "chat", model="m", messages=HELLO, format=schema, options={"num_predict": 50}
    )
    assert isinstance(json.loads(answer["message"]["content"])["ok"], bool)


async def test_a_tool_call_has_an_id_an_index_and_an_object(ollama_like: House) -> None:
    request = {"model": "t", "messages": HELLO, "tools": TOOLS, "format": CALL, "think": False}
    request |= {"options": {"temperature": 0, "num_predict": 200}}
    answer = await ask(ollama_like, "chat", **request)
    call = answer["message"]["tool_calls"][0]
    assert call["id"].startswith("call_")
    assert call["function"] == {"index": 0, "name": "get_time", "arguments": {"tz": "UTC"}}
    assert (answer["message"]["content"], answer["done_reason"]) == ("", "stop")
    openai = await ollama_like.post(
        "/v1/chat/completions",
        {
            **{k: request[k] for k in ("model", "messages", "tools")},
            "reasoning_effort": "none",
            "response_format": {"type": "json_schema", "json_schema": {"schema": CALL}},
        },
    )
    choice = openai.json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"tz":"UTC"}'


async def test_the_result_of_a_tool_goes_back_in(ollama_like: House) -> None:
    call = {"function": {"name": "get_time", "arguments": {"tz": "UTC"}}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "noon", "tool_name": "get_time"},
    ]
    answer = await ask(ollama_like, "chat", model="t", messages=messages, options=FEW)
    assert answer["eval_count"] == 5


async def test_thinking_is_on_unless_it_is_switched_off(ollama_like: House) -> None:
    on = await ask(ollama_like, "chat", model="t", messages=HELLO, options=FEW)
    assert on["message"]["thinking"]
    assert on["message"]["content"] == ""
    off = await ask(ollama_like, "chat", model="t", messages=HELLO, options=FEW, think=False)
    assert "thinking" not in off["message"]
    assert off["message"]["content"]
    high = await ask(ollama_like, "generate", model="t", prompt="x", options=FEW, think="high")
    assert high["thinking"]


@pytest.mark.parametrize("top", [0, 2])
async def test_logprobs_have_as_many_alternatives_as_asked_for(
    ollama_like: House, top: int
) -> None:
    for route, work in (("generate", {"prompt": "x"}), ("chat", {"messages": HELLO})):
        answer = await ask(
            ollama_like, route, model="m", logprobs=True, top_logprobs=top, options=FEW, **work
        )
        assert len(answer["logprobs"]) == 5
        for each in answer["logprobs"]:
            assert bytes(each["bytes"]).decode() == each["token"]
            assert each["logprob"] <= 0
            others = [other["logprob"] for other in each.get("top_logprobs", ())]
            assert len(others) == top
            assert others == sorted(others, reverse=True)


async def test_old_messages_go_when_a_chat_does_not_fit_and_a_header_says_so(
    ollama_like: House,
) -> None:
    long = [
        {"role": "system", "content": "keep me"},
        *({"role": "user", "content": f"number {n} " * 30} for n in range(20)),
        {"role": "user", "content": "the last"},
    ]
    response = await ollama_like.post(
        "/api/chat",
        {"model": "m", "messages": long, "stream": False, "options": {**FEW, "num_ctx": 400}},
    )
    assert response.json()["prompt_eval_count"] < 400
    assert response.headers["x-vllama-truncated"].endswith(" messages")
    streamed = await ollama_like.post(
        "/api/chat", {"model": "m", "messages": long, "options": {**FEW, "num_ctx": 400}}
    )
    assert "x-vllama-truncated" in streamed.headers
    short = await ollama_like.post("/api/chat", {"model": "m", "messages": HELLO, "options": FEW})
    assert "x-vllama-truncated" not in short.headers


async def test_two_clients_with_different_contexts_share_one_engine(ollama_like: House) -> None:
    await ask(ollama_like, "generate", model="m", prompt="x", options=FEW)
    before = [each.endpoint for each in ollama_like.pool.loaded() if each.name == "m"]
    for num_ctx in (512, 4096, 1, 2048):
        options = {**FEW, "num_ctx": num_ctx}
        await ask(ollama_like, "generate", model="m", prompt="x", options=options)
    after = [each.endpoint for each in ollama_like.pool.loaded() if each.name == "m"]
    assert before == after


async def test_eight_at_once_are_all_answered(ollama_like: House) -> None:
    answers = await asyncio.gather(
        *(ask(ollama_like, "chat", model="m", messages=HELLO, options=FEW) for _ in range(8))
    )
    assert len({a["message"]["content"] for a in answers}) == 1


async def test_embeddings_are_of_length_one_and_cut_to_the_dimensions(ollama_like: House) -> None:
    one = await ask(ollama_like, "embed", model="e", input="hi")
    assert sum(x * x for x in one["embeddings"][0]) == pytest.approx(1, abs=1e-3)
    assert one["prompt_eval_count"] >= 1
    two = await ask(ollama_like, "embed", model="e", input=["hi", "there"], dimensions=2)
    assert [len(v) for v in two["embeddings"]] == [2, 2]
    assert sum(x * x for x in two["embeddings"][1]) == pytest.approx(1, abs=1e-3)
    nothings: list[dict[str, Any]] = [{}, {"input": ""}, {"input": []}, {"input": None}]
    for nothing in nothings:
        assert await ask(ollama_like, "embed", model="e", **nothing) == {
            "model": "e",
            "embeddings": [],
        }


async def test_a_long_text_is_cut_before_it_is_embedded(ollama_like: House) -> None:
    cut = await ask(ollama_like, "embed", model="e", input="word " * 3000, options={"num_ctx": 64})
    assert cut["prompt_eval_count"] <= 64
    legacy = await ollama_like.post("/api/embeddings", {"model": "e", "prompt": "hi"})
    assert list(legacy.json()) == ["embedding"]


async def test_show_pads_parameters_and_fills_lists_when_verbose(ollama_like: House) -> None:
    shown = (await ollama_like.post("/api/show", {"model": "m"})).json()
    assert 'stop                           "<|im_start|>"' in shown["parameters"]
    assert shown["model_info"]["tokenizer.ggml.tokens"] is None
    assert shown["tensors"]
    verbose = (await ollama_like.post("/api/show", {"name": "m", "verbose": True})).json()
    assert len(verbose["model_info"]["tokenizer.ggml.tokens"]) == 4096
    able = set((await ollama_like.post("/api/show", {"model": "t"})).json()["capabilities"])
    assert able == {"completion", "tools", "thinking"}


async def test_tags_are_newest_first_and_complete(ollama_like: House) -> None:
    models = (await ollama_like.get("/api/tags")).json()["models"]
    times = [datetime.fromisoformat(each["modified_at"]) for each in models]
    assert times == sorted(times, reverse=True)
    for each in models:
        assert each["name"] == each["model"]
        assert len(each["digest"]) == 64
        assert int(each["digest"], 16) >= 0
        assert each["details"]["quantization_level"]


async def test_text_becomes_tokens_and_tokens_text(ollama_like: House) -> None:
    text = "def main():"
    tokens = await ask(ollama_like, "tokenize", model="m", content=text)
    assert tokens["count"] == len(tokens["tokens"]) > 1
    back = await ask(ollama_like, "detokenize", model="m", tokens=tokens["tokens"])
    assert back["content"] == text
