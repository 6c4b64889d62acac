"""What an engine says of tools, thinking and failure, in every API's own form.

The engine is the simulator: a real process whose answers are scripted in vLLM's wire format.
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.house import Always, Given, House, serving
from vllama.engines import engine
from vllama.profile import Profile, Scalar
from vllama.settings import Settings

SCRIPT = [
    {
        "match": "weather",
        "reasoning": "They want weather.",
        "content": "",
        "tool_calls": [
            {"name": "get_weather", "arguments": {"city": "Paris"}},
            {"name": "get_weather", "arguments": {"city": "Rome"}},
        ],
    },
    {"match": "ponder", "reasoning": "Let me think.", "content": "Forty two."},
    {"match": "say", "content": 'a "quoted" <tag> & ünïcode \n line'},
]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "d",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@asynccontextmanager
async def simulated(
    settings: Settings, folder: Path, options: Mapping[str, Scalar] | None = None
) -> AsyncIterator[House]:
    script = folder / "script.json"
    script.write_text(json.dumps(SCRIPT))
    simulator = engine("simulator", settings)
    profile = Profile("p", "simulator", "toy", {"script": str(script), **(options or {})})
    async with simulator.start(profile) as endpoint:
        # It speaks vLLM's dialect.
        given = Given(replace(endpoint, engine="vllm"))
        attached = {"sim": (endpoint.base_url,)}
        async with serving(Always({"sim": given}), settings, attached=attached) as house:
            yield house


@pytest.fixture(scope="module")
async def sim(
    session_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    async with simulated(session_settings, tmp_path_factory.mktemp("sim")) as house:
        yield house


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def ndjson(response: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in response.text.splitlines()]


def events(response: httpx.Response) -> list[Any]:
    found = []
    for line in response.text.splitlines():
        if line.startswith("data: "):
            data = line.removeprefix("data: ")
            found.append(json.loads(data) if data != "[DONE]" else data)
    return found


async def test_ollama_gets_whole_calls_with_ids_and_rising_indices(sim: House) -> None:
    request = {"model": "sim", "messages": user("weather"), "tools": [TOOL]}
    whole = (await sim.post("/api/chat", {**request, "stream": False})).json()
    calls = whole["message"]["tool_calls"]
    assert [c["function"]["arguments"]["city"] for c in calls] == ["Paris", "Rome"]
    assert [c["function"]["index"] for c in calls] == [0, 1]
    assert len({c["id"] for c in calls}) == 2
    assert whole["message"]["thinking"] == "They want weather."
    assert whole["done_reason"] == "stop"
    parts = ndjson(await sim.post("/api/chat", request))
    streamed = [c for part in parts for c in part["message"].get("tool_calls", ())]
    assert [c["function"]["arguments"] for c in streamed] == [{"city": "Paris"}, {"city": "Rome"}]
    assert parts[-1]["done"]


async def test_ollama_gets_thinking_apart_from_content(sim: House) -> None:
    parts = ndjson(await sim.post("/api/chat", {"model": "sim", "messages": user("ponder")}))
    assert "".join(p["message"].get("thinking", "") for p in parts) == "Let me think."
    assert "".join(p["message"]["content"] for p in parts) == "Forty two."
    assert all(p["message"]["content"] == "" for p in parts if "thinking" in p["message"])


async def test_openai_gets_calls_as_text_and_the_reason(sim: House) -> None:
    request = {"model": "sim", "messages": user("weather"), "tools": [TOOL]}
    whole = (await sim.post("/v1/chat/completions", request)).json()["choices"][0]
    assert whole["finish_reason"] == "tool_calls"
    assert whole["message"]["reasoning"] == "They want weather."
    assert json.loads(whole["message"]["tool_calls"][1]["function"]["arguments"]) == {
        "city": "Rome"
    }
    told = events(await sim.post("/v1/chat/completions", {**request, "stream": True}))
    assert told[-1] == "[DONE]"
    deltas = [c["delta"] for e in told[:-1] for c in e["choices"]]
    assert deltas[0]["role"] == "assistant"
    assert all("role" not in delta for delta in deltas[1:])
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert [call["index"] for call in calls] == [0, 1]


async def test_anthropic_gets_blocks_one_after_the_other(sim: House) -> None:
    request = {
        "model": "sim",
        "max_tokens": 100,
        "messages": user("weather"),
        "tools": [{"name": "get_weather", "input_schema": {"type": "object"}}],
    }
    whole = (await sim.post("/v1/messages", request)).json()
    assert [block["type"] for block in whole["content"]] == ["thinking", "tool_use", "tool_use"]
    assert whole["content"][1]["input"] == {"city": "Paris"}
    assert whole["stop_reason"] == "tool_use"
    told = events(await sim.post("/v1/messages", {**request, "stream": True}))
    assert told[0]["type"] == "message_start"
    assert told[-1]["type"] == "message_stop"
    opened: list[int] = []
    for event in told:
        if event["type"] == "content_block_start":
            opened.append(event["index"])
        elif event["type"] == "content_block_stop":
            assert opened[-1] == event["index"]
    assert opened == [0, 1, 2]


async def test_responses_number_every_event_and_complete(sim: House) -> None:
    tool = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}
    request = {"model": "sim", "input": "weather", "tools": [tool], "stream": True}
    told = events(await sim.post("/v1/responses", request))
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert told[0]["type"] == "response.created"
    assert told[-1]["type"] == "response.completed"
    output = told[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["reasoning", "function_call", "function_call"]
    whole = (await sim.post("/v1/responses", {**request, "stream": False})).json()
    assert [item["type"] for item in whole["output"]] == [item["type"] for item in output]


async def test_hostile_text_arrives_unharmed_in_every_api(sim: House) -> None:
    text = 'a "quoted" <tag> & ünïcode \n line'
    chat = ndjson(await sim.post("/api/chat", {"model": "sim", "messages": user("say")}))
    assert "".join(p["message"]["content"] for p in chat) == text
    request = {"model": "sim", "messages": user("say"), "stream": True}
    openai = events(await sim.post("/v1/chat/completions", request))
    said = "".join(e["choices"][0]["delta"].get("content", "") for e in openai[:-1])
    assert said == text
    raw = await sim.post("/api/chat", {"model": "sim", "messages": user("say")})
    assert "<" not in raw.text
    assert "\\u003c" in raw.text


@pytest.mark.parametrize(
    "fault",
    [{"fault_cut_after": 3}, {"fault_malformed_chunk": 3}, {"fault_crash_after_tokens": 3}],
    ids=lambda f: next(iter(f)),
)
async def test_a_stream_that_breaks_says_so_in_its_apis_form(
    settings: Settings, tmp_path: Path, fault: dict[str, Scalar]
) -> None:
    async with simulated(settings, tmp_path, {**fault, "answer_tokens": 20}) as house:
        chat = await house.post("/api/chat", {"model": "sim", "messages": user("x")})
        assert chat.status_code == 200
        *parts, last = ndjson(chat)
        assert list(last) == ["error"]
        assert not any(part["done"] for part in parts)
        if "fault_crash_after_tokens" in fault:
            return
        request = {"model": "sim", "messages": user("x"), "stream": True}
        openai = events(await house.post("/v1/chat/completions", request))
        assert openai[-1] == "[DONE]"
        assert openai[-2]["error"]["type"] == "api_error"
        anthropic = events(await house.post("/v1/messages", {**request, "max_tokens": 20}))
        assert anthropic[-1]["type"] == "error"
        request = {"model": "sim", "input": "x", "stream": True}
        responses = events(await house.post("/v1/responses", request))
        assert responses[-1]["type"] == "error"


async def test_an_error_before_the_first_byte_has_its_status(
    settings: Settings, tmp_path: Path
) -> None:
    faults: dict[str, Scalar] = {"fault_status": 500, "fault_status_every": 1}
    async with simulated(settings, tmp_path, faults) as house:
        chat = await house.post("/api/chat", {"model": "sim", "messages": user("x")})
        assert chat.status_code == 500
        assert list(chat.json()) == ["error"]
        assert chat.headers["content-type"].startswith("application/json")
