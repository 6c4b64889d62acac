"""The same requests on a real vLLM: one engine shared by all tests of the session."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.house import Always, Given, House, serving
from vllama.engines.engine import Endpoint
from vllama.settings import Settings

pytestmark = pytest.mark.vllm
GREEDY = {"temperature": 0, "seed": 1, "num_predict": 8}
HELLO = [{"role": "user", "content": "tell me of lists"}]


@pytest.fixture(scope="module")
async def house(
    toy: Path, vllm_endpoint: Endpoint, session_settings: Settings
) -> AsyncIterator[House]:
    choose = Always({str(toy): Given(vllm_endpoint)})
    async with serving(choose, session_settings, [str(toy)]) as each:
        yield each


async def ask(house: House, toy: Path, route: str, **body: Any) -> dict[str, Any]:
    response = await house.post(f"/api/{route}", {"model": toy.name, "stream": False, **body})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_greedy_answers_equal_the_engines_own(
    house: House, toy: Path, vllm_endpoint: Endpoint
) -> None:
    async with httpx.AsyncClient(base_url=vllm_endpoint.base_url, trust_env=False) as engine:
        own = await engine.post(
            "/v1/chat/completions",
            json={
                "model": vllm_endpoint.model, "messages": HELLO, "temperature": 0,
                "max_tokens": 8, "seed": 1,
            },
            timeout=60,
        )  # fmt: skip
    expected = own.json()["choices"][0]["message"]["content"]
    chat = await ask(house, toy, "chat", messages=HELLO, options=GREEDY)
    assert chat["message"]["content"] == expected
    assert chat["prompt_eval_count"] == own.json()["usage"]["prompt_tokens"]
    generated = await ask(house, toy, "generate", prompt=HELLO[0]["content"], options=GREEDY)
    assert generated["response"] == expected
    openai = await house.post(
        "/v1/chat/completions",
        {"model": toy.name, "messages": HELLO, "temperature": 0, "max_tokens": 8},
    )
    assert openai.json()["choices"][0]["message"]["content"] == expected


async def test_a_stream_has_context_and_the_engines_own_times(house: House, toy: Path) -> None:
    response = await house.post(
        "/api/generate", {"model": toy.name, "prompt": "hello", "options": GREEDY}
    )
    lines = [json.loads(line) for line in response.text.splitlines()]
    last = lines[-1]
    assert (last["done"], last["eval_count"]) == (True, 8)
    assert len(last["context"]) == last["prompt_eval_count"] + 8
    assert 0 < last["eval_duration"] <= last["total_duration"]
    assert 0 < last["prompt_eval_duration"] <= last["total_duration"]
    again = await ask(
        house, toy, "generate", prompt="more", context=last["context"], options=GREEDY
    )
    assert again["context"][: len(last["context"])] == last["context"]


async def test_a_schema_logprobs_and_all_options_are_taken(house: House, toy: Path) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"enum": ["a", "b"]}},
        "required": ["n"],
        "additionalProperties": False,
    }
    made = await ask(house, toy, "chat", messages=HELLO, format=schema, options=GREEDY)
    # Eight tokens of random weights may be white space, but nothing else beside the schema.
    terse = re.sub(r"\s", "", made["message"]["content"])
    assert terse.startswith("{")
    assert any(full.startswith(terse) for full in ('{"n":"a"}', '{"n":"b"}'))
    everything = {
        "num_keep": 2, "seed": -1, "num_predict": 3, "top_k": 0, "top_p": 0.0, "min_p": 0.1,
        "typical_p": 0.9, "repeat_last_n": 3, "temperature": 5.0, "repeat_penalty": 1.1,
        "presence_penalty": 9.0, "frequency_penalty": -9.0, "num_ctx": 512, "num_gpu": 1,
        "stop": ["", "1", "2", "3", "4", "5"],
    }  # fmt: skip
    await ask(house, toy, "generate", prompt="x", options=everything)
    told = await ask(
        house, toy, "generate", prompt="x", logprobs=True, top_logprobs=2, options=GREEDY
    )
    assert len(told["logprobs"]) == 8
    assert all(len(each["top_logprobs"]) == 2 for each in told["logprobs"])
    chat = await ask(house, toy, "chat", messages=HELLO, logprobs=True, options=GREEDY)
    assert len(chat["logprobs"]) == 8
    assert "top_logprobs" not in chat["logprobs"][0]


async def test_a_long_prompt_is_cut_and_a_long_chat_loses_old_messages(
    house: House, toy: Path
) -> None:
    cut = await ask(house, toy, "generate", prompt="word " * 5000, options=GREEDY)
    assert cut["prompt_eval_count"] < 2048
    long = [{"role": "user", "content": f"number {n} " * 100} for n in range(30)]
    chat = await ask(house, toy, "chat", messages=long, options=GREEDY)
    assert chat["prompt_eval_count"] < 2048


async def test_raw_prompts_lists_and_unlimited_answers(house: House, toy: Path) -> None:
    raw = await ask(house, toy, "generate", prompt="def f(", raw=True, options=GREEDY)
    assert raw["eval_count"] == 8
    many = await house.post(
        "/v1/completions", {"model": toy.name, "prompt": ["a", "b"], "max_tokens": 2, "n": 2}
    )
    assert len(many.json()["choices"]) == 4
    assert many.json()["usage"]["completion_tokens"] == 8


async def test_tokens_go_there_and_back(house: House, toy: Path) -> None:
    tokens = await ask(house, toy, "tokenize", content="def main():")
    back = await ask(house, toy, "detokenize", tokens=tokens["tokens"])
    assert back["content"] == "def main():"
    counted = await house.post("/v1/messages/count_tokens", {"model": toy.name, "messages": HELLO})
    assert counted.json()["input_tokens"] > 4


async def test_embeddings_of_a_chat_model_are_refused_as_by_ollama(house: House, toy: Path) -> None:
    response = await house.post("/api/embed", {"model": toy.name, "input": "x"})
    assert response.status_code == 500
    assert "does not support embeddings" in response.json()["error"]
