"""Cases 86 to 108: OpenAI's and Anthropic's APIs, web rules, many at once, and failures."""

import asyncio
import base64
import json
import struct
from typing import Any

import httpx
import pytest

from tests.server.fakes import until
from tests.server.reference.cases import FEW, NX, SIM, USER, E, M, T, World, case, events, lines
from tests.server.test_translation import TOOL, simulated, user

CHAT = "/v1/chat/completions"
SHORT = {"model": M, "messages": USER, "temperature": 0, "max_tokens": 5}
LOCAL = {"Origin": "http://localhost:3000"}


def adds_up(usage: dict[str, int]) -> bool:
    return usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 1


@case(86)
async def chat(w: World) -> None:
    first = (await w.post(CHAT, **SHORT)).json()
    assert first["object"] == "chat.completion"
    assert adds_up(first["usage"])
    stop = first["choices"][0]["message"]["content"][2:4]
    ended = (await w.post(CHAT, **SHORT, stop=stop)).json()
    assert ended["choices"][0]["finish_reason"] == "stop"
    assert adds_up(ended["usage"])


@case(87)
async def chat_streamed(w: World) -> None:
    options = {"include_usage": True}
    told = events(await w.post(CHAT, **SHORT, stream=True, stream_options=options))
    assert told[0]["choices"][0]["delta"]["role"] == "assistant"
    assert told[-3]["choices"][0]["delta"] == {}
    assert told[-3]["choices"][0]["finish_reason"] == "length"
    assert told[-2]["choices"] == []
    assert adds_up(told[-2]["usage"])
    assert told[-1] == "[DONE]"


@case(88)
async def chat_without_messages(w: World) -> None:
    response = await w.post(CHAT, model=M, messages=[])
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "[] is too short - 'messages'"


@case(89)
async def chat_with_the_unknown(w: World) -> None:
    response = await w.post(CHAT, model=NX, messages=USER)
    assert response.status_code == 404
    assert response.json()["error"] == {
        "message": "model 'NX' not found", "type": "not_found_error", "param": None, "code": None,
    }  # fmt: skip


@case(90)
async def image_by_address(w: World) -> None:
    part = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/a.png"}}
    response = await w.post(CHAT, model=M, messages=[{"role": "user", "content": [part]}])
    assert response.status_code == 400
    assert response.json()["error"]["message"] == (
        "image URLs are not currently supported, please use base64 encoded data instead"
    )


@case(91)
async def tool_call(w: World) -> None:
    request = {"model": SIM, "messages": user("weather"), "tools": [TOOL]}
    choice = (await w.sim.post(CHAT, request)).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    arguments = choice["message"]["tool_calls"][0]["function"]["arguments"]
    assert isinstance(arguments, str)
    assert json.loads(arguments) == {"city": "Paris"}


@case(92)
async def one_token(w: World) -> None:
    answer = (await w.post(CHAT, **{**SHORT, "max_tokens": 1})).json()
    assert answer["choices"][0]["finish_reason"] == "length"


@case(93)
async def efforts(w: World) -> None:
    none = await w.post(CHAT, **{**SHORT, "model": T}, reasoning_effort="none")
    assert none.status_code == 200
    assert "reasoning" not in none.json()["choices"][0]["message"]
    bogus = await w.post(CHAT, **{**SHORT, "model": T}, reasoning_effort="bogus")
    assert bogus.status_code == 400
    assert bogus.json()["error"]["message"].startswith('invalid reasoning value: "bogus" (must be')


@case(94)
async def prompts(w: World) -> None:
    request = {"model": M, "max_tokens": 3, "temperature": 0}
    one = await w.post("/v1/completions", **request, prompt="hi")
    assert (one.status_code, one.json()["object"]) == (200, "text_completion")
    both = await w.post("/v1/completions", **request, prompt=["hi", "ho"])
    assert [choice["index"] for choice in both.json()["choices"]] == [0, 1]


@case(95)
async def vectors_in_base64(w: World) -> None:
    plain, packed = [
        (await w.post("/v1/embeddings", model=E, input="hi", encoding_format=name)).json()["data"]
        for name in ("float", "base64")
    ]
    data = base64.b64decode(packed[0]["embedding"])
    values = struct.unpack(f"<{len(data) // 4}f", data)
    assert values == pytest.approx(plain[0]["embedding"], abs=1e-6)


@case(96)
async def vectors_in_bytes(w: World) -> None:
    response = await w.post("/v1/embeddings", model=E, input="hi", encoding_format="int8")
    assert response.status_code == 400
    assert response.json()["error"]["message"] == (
        "Invalid value for 'encoding_format' = int8. Supported values: ['float', 'base64']."
    )


@case(97)
async def one_model(w: World) -> None:
    found = await w.request("GET", f"/v1/models/{M}")
    assert (found.status_code, found.json()["id"]) == (200, M)
    assert (await w.request("GET", f"/v1/models/{NX}")).status_code == 404


@case(98)
async def message_without_limit(w: World) -> None:
    response = await w.post("/v1/messages", model=M, messages=USER)
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "max_tokens is required and must be positive"


@case(99)
async def message(w: World) -> None:
    real = (await w.post("/v1/messages", model=M, messages=USER, max_tokens=5)).json()
    assert (real["type"], real["stop_reason"]) == ("message", "max_tokens")
    assert real["usage"]["output_tokens"] == 5
    # Random weights seldom end by themselves; the scripted answer does.
    request = {"model": SIM, "messages": user("say"), "max_tokens": 100}
    ended = (await w.sim.post("/v1/messages", request)).json()
    assert (ended["type"], ended["stop_reason"]) == ("message", "end_turn")
    assert {"input_tokens", "output_tokens"} <= ended["usage"].keys()


@case(100)
async def message_streamed(w: World) -> None:
    told = events(await w.post("/v1/messages", model=M, messages=USER, max_tokens=5, stream=True))
    kinds = [event["type"] for event in told]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


@case(101)
async def responses(w: World) -> None:
    request: dict[str, Any] = {"model": M, "input": "hi", "max_output_tokens": 5}
    whole = (await w.post("/v1/responses", **request)).json()
    assert whole["object"] == "response"
    assert whole["id"].startswith("resp_")
    assert {
        "created_at", "completed_at", "status", "incomplete_details", "previous_response_id",
        "instructions", "output", "error", "tools", "tool_choice", "truncation", "text", "usage",
        "parallel_tool_calls", "top_p", "presence_penalty", "frequency_penalty", "top_logprobs",
        "temperature", "reasoning", "max_output_tokens", "max_tool_calls", "store", "background",
        "service_tier", "metadata", "safety_identifier", "prompt_cache_key",
    } <= whole.keys()  # fmt: skip
    streamed = await w.post("/v1/responses", **request, stream=True)
    told = events(streamed)
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert told[-1]["type"] == "response.completed"
    assert "[DONE]" not in streamed.text


@case(102)
async def local_origin(w: World) -> None:
    response = await w.request("GET", "/api/version", headers=LOCAL)
    assert response.headers["access-control-allow-origin"] == LOCAL["Origin"]
    assert response.headers["vary"] == "Origin"


@case(103)
async def foreign_origin(w: World) -> None:
    headers = {"Origin": "https://evil.example"}
    response = await w.request("GET", "/api/version", headers=headers)
    assert (response.status_code, response.content) == (403, b"")


@case(104)
async def preflight(w: World) -> None:
    headers = {**LOCAL, "Access-Control-Request-Method": "POST"}
    response = await w.request("OPTIONS", "/api/chat", headers=headers)
    assert response.status_code == 204
    assert response.headers["access-control-allow-methods"] == (
        "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
    )
    assert "Authorization" in response.headers["access-control-allow-headers"]
    assert response.headers["access-control-max-age"] == "43200"


@case(105)
async def foreign_host(w: World) -> None:
    response = await w.request("GET", "/api/version", headers={"Host": "evil.example"})
    assert (response.status_code, response.content) == (403, b"")


@case(106)
async def eight_at_once(w: World) -> None:
    answers: list[httpx.Response] = await asyncio.gather(
        *(w.post("/api/chat", model=M, messages=USER, options=FEW) for _ in range(8))
    )
    assert [answer.status_code for answer in answers] == [200] * 8
    assert all(lines(answer)[-1]["done"] for answer in answers)


@case(107)
async def hanging_up(w: World) -> None:
    request = {"model": M, "prompt": "go on", "options": {"num_predict": 3000}}
    async with (
        w.house.client() as client,
        client.stream("POST", "/api/generate", json=request) as response,
    ):
        await anext(response.aiter_lines())
    answer = await w.ask("generate", model=M, prompt="hi", options=FEW)
    assert answer["done"]
    await until(lambda: not any(each.users for each in w.house.pool.loaded()))


@case(108)
async def killed_in_mid_stream(w: World) -> None:
    faults = {"fault_crash_after_tokens": 3, "answer_tokens": 20}
    async with simulated(w.settings, w.folder, faults) as house:
        response = await house.post("/api/chat", {"model": SIM, "messages": user("x")})
    *parts, last = lines(response)
    assert response.status_code == 200
    assert list(last) == ["error"]
    assert parts
    assert not any(part["done"] for part in parts)
