"""`tool_choice` is obeyed where the prompt is rendered here, and passed on where it is not."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.server.house import House
from tests.server.test_translation import events
from vllama.server.openai import requests as openai_requests
from vllama.server.translation import dialects

pytestmark = pytest.mark.llamacpp
HELLO = [{"role": "user", "content": "hello"}]


def function(name: str, key: str, *values: str) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {key: {"enum": list(values)}},
        "required": [key],
        "additionalProperties": False,
    }
    return {"name": name, "description": name, "parameters": parameters}


TIME, COLOUR = function("get_time", "zone", "UTC", "CET"), function("paint", "colour", "red")
TOOLS = [{"type": "function", "function": each} for each in (TIME, COLOUR)]
CHOICES: list[tuple[Any, set[str]]] = [
    ("required", {"get_time", "paint"}),
    ({"type": "function", "function": {"name": "paint"}}, {"paint"}),
    ({"type": "function", "function": {"name": "get_time"}}, {"get_time"}),
]


def request(model: str, choice: Any, **more: Any) -> dict[str, Any]:
    return {
        "model": model, "messages": HELLO, "tools": TOOLS, "tool_choice": choice,
        "temperature": 0, "max_tokens": 200, **more,
    }  # fmt: skip


@pytest.mark.parametrize(("choice", "allowed"), CHOICES, ids=["any", "paint", "time"])
async def test_random_weights_call_what_they_have_to(
    ollama_like: House, choice: Any, allowed: set[str]
) -> None:
    answer = await ollama_like.post("/v1/chat/completions", request("t", choice))
    [found] = answer.json()["choices"]
    assert found["finish_reason"] == "tool_calls"
    [call] = found["message"]["tool_calls"]
    assert call["function"]["name"] in allowed
    told = events(await ollama_like.post("/v1/chat/completions", request("t", choice, stream=True)))
    calls = [
        c for e in told[:-1] for each in e["choices"] for c in each["delta"].get("tool_calls", ())
    ]
    assert [c["function"] for c in calls] == [call["function"]]
    assert json.loads(call["function"]["arguments"]) in (
        {"zone": "UTC"}, {"zone": "CET"}, {"colour": "red"},
    )  # fmt: skip


async def test_no_tools_are_shown_to_one_who_may_call_none(ollama_like: House) -> None:
    tokens = []
    for tools, choice in ((TOOLS, "auto"), (TOOLS, "none"), ([], None)):
        body = request("t", choice, tools=tools, max_tokens=1)
        answer = await ollama_like.post("/v1/chat/completions", body)
        tokens.append(answer.json()["usage"]["prompt_tokens"])
    with_tools, without, never = tokens
    assert without == never < with_tools


async def test_anthropics_and_responses_choices_are_obeyed_too(ollama_like: House) -> None:
    message = await ollama_like.post(
        "/v1/messages",
        {
            "model": "t", "messages": HELLO, "max_tokens": 200,
            "tools": [{"name": "paint", "input_schema": COLOUR["parameters"]}],
            "tool_choice": {"type": "tool", "name": "paint"},
        },
    )  # fmt: skip
    [block] = message.json()["content"]
    assert (block["type"], block["name"], block["input"]) == (
        "tool_use",
        "paint",
        {"colour": "red"},
    )
    response = await ollama_like.post(
        "/v1/responses",
        {
            "model": "t", "input": "hello", "max_output_tokens": 200,
            "tools": [{"type": "function", **COLOUR}],
            "tool_choice": {"type": "function", "name": "paint"},
        },
    )  # fmt: skip
    [item] = response.json()["output"]
    assert (item["type"], json.loads(item["arguments"])) == ("function_call", {"colour": "red"})


async def test_a_choice_that_makes_no_sense_is_as_if_none_was_made(ollama_like: House) -> None:
    for choice in (5, "sometimes", {"type": "function"}, {"function": {"name": "nobody"}}):
        answer = await ollama_like.post("/v1/chat/completions", request("t", choice, max_tokens=2))
        assert answer.status_code == 200, answer.text


async def test_an_engine_that_renders_itself_is_told(ollama_like: House) -> None:
    for choice, _ in [*CHOICES, ("auto", set()), ("none", set())]:
        ask = openai_requests.chat(request("far", choice), HELLO, "far", None)
        async with ollama_like.pool.lease("t", None) as lease:
            llama = dialects.chat_body(ask, lease, 4096)
            vllm = replace(lease, endpoint=replace(lease.endpoint, engine="vllm"))
            body = dialects.chat_body(ask, vllm, 4096)
        assert (body["tool_choice"], body["tools"]) == (choice, TOOLS)
        if isinstance(choice, str):
            assert (llama["tool_choice"], llama["tools"]) == (choice, TOOLS)
        else:  # llama.cpp knows no names
            assert llama["tool_choice"] == "required"
            assert [tool["function"]["name"] for tool in llama["tools"]] == [
                choice["function"]["name"]
            ]
