"""`/api/generate` and `/api/chat` on a real llama.cpp."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.house import Always, Given, House, serving
from vllama.engines.engine import Endpoint
from vllama.settings import Settings

pytestmark = pytest.mark.llamacpp
GREEDY = {"temperature": 0, "seed": 1, "num_predict": 8}


@pytest.fixture(scope="module")
async def house(
    toy: Path, llamacpp_endpoint: Endpoint, session_settings: Settings
) -> AsyncIterator[House]:
    choose = Always({str(toy): Given(llamacpp_endpoint)})
    async with serving(choose, session_settings, [str(toy)]) as each:
        yield each


@pytest.fixture(scope="module")
def name(toy: Path) -> str:
    return toy.name


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


async def test_a_stream_ends_with_counts_context_and_durations(house: House, name: str) -> None:
    response = await house.post(
        "/api/generate", {"model": name, "prompt": "hello", "options": GREEDY}
    )
    *parts, last = lines(response)
    assert all(not part["done"] and "created_at" in part for part in parts)
    assert last["done"]
    assert last["response"] == ""
    assert last["done_reason"] == "length"
    assert last["eval_count"] == 8
    assert last["total_duration"] >= last["eval_duration"] > 0
    assert last["prompt_eval_duration"] > 0
    assert last["load_duration"] > 0
    assert len(last["context"]) == last["prompt_eval_count"] + last["eval_count"]


async def test_the_whole_answer_is_what_the_stream_adds_up_to(house: House, name: str) -> None:
    request = {"model": name, "prompt": "hello", "options": GREEDY}
    *parts, _ = lines(await house.post("/api/generate", request))
    whole = (await house.post("/api/generate", {**request, "stream": False})).json()
    assert whole["response"] == "".join(part["response"] for part in parts) != ""
    assert whole["model"] == name


async def test_greedy_chat_equals_the_engines_own(
    house: House, name: str, llamacpp_endpoint: Endpoint
) -> None:
    messages = [{"role": "user", "content": "tell me of lists"}]
    async with httpx.AsyncClient(base_url=llamacpp_endpoint.base_url, trust_env=False) as engine:
        own = await engine.post(
            "/v1/chat/completions",
            json={"messages": messages, "temperature": 0, "max_tokens": 8, "seed": 1},
        )
    ours = await house.post(
        "/api/chat", {"model": name, "messages": messages, "stream": False, "options": GREEDY}
    )
    assert ours.json()["message"]["content"] == own.json()["choices"][0]["message"]["content"]
    assert ours.json()["prompt_eval_count"] == own.json()["usage"]["prompt_tokens"]
