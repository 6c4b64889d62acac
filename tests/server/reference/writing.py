"""Cases 33 to 66: load and unload, generate, chat, their options, tools and thinking."""

import asyncio
import json
from datetime import datetime, timedelta
from typing import Any

from tests.server.reference.cases import FEW, JSON, SIM, USER, M, T, World, case, lines
from tests.server.test_translation import TOOL, user

SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
QUALIFIED = "registry.ollama.ai/library/m:latest"


@case(33)
async def loading(w: World) -> None:
    response = await w.post("/api/generate", model=M)
    assert (response.status_code, response.headers["content-type"]) == (200, JSON)
    answer = response.json()
    assert (answer["done"], answer["done_reason"], answer["response"]) == (True, "load", "")
    assert "eval_count" not in answer


@case(34)
async def loaded(w: World) -> None:
    await w.ask("generate", model=M, keep_alive="5m")
    entry = (await w.running())["m:latest"]
    assert entry["size"] >= entry["size_vram"] >= 0
    assert entry["context_length"] >= 4
    left = datetime.fromisoformat(entry["expires_at"]) - datetime.now().astimezone()
    assert timedelta(minutes=4) < left <= timedelta(minutes=5)


@case(35)
async def loading_by_chat(w: World) -> None:
    response = await w.post("/api/chat", model=M, messages=[])
    assert response.headers["content-type"] == JSON
    answer = response.json()
    assert answer["message"] == {"role": "assistant", "content": ""}
    assert answer["done_reason"] == "load"


@case(36)
async def unloading(w: World) -> None:
    await w.ask("generate", model=M)
    assert (await w.ask("generate", model=M, keep_alive=0))["done_reason"] == "unload"
    # A request of an earlier case may still be leaving: then the model goes after it.
    async with asyncio.timeout(30):
        while "m:latest" in await w.running():
            pass


@case(37)
async def unloading_again(w: World) -> None:
    for _ in range(2):
        response = await w.post("/api/generate", model=M, keep_alive=0)
        assert (response.status_code, response.json()["done_reason"]) == (200, "unload")


@case(38)
async def streaming(w: World) -> None:
    *parts, last = lines(await w.post("/api/generate", model=M, prompt="hi", options=FEW))
    assert parts
    assert all(part["done"] is False for part in parts)
    assert last["done"] is True
    assert last["done_reason"] in ("stop", "length")
    assert all(isinstance(token, int) for token in last["context"])
    assert last["total_duration"] >= last["eval_duration"] > 0
    assert last["prompt_eval_count"] >= 1
    assert last["eval_count"] >= 1


@case(39)
async def whole(w: World) -> None:
    response = await w.post("/api/generate", model=M, prompt="hi", options=FEW, stream=False)
    assert response.headers["content-type"] == JSON
    assert response.json()["response"]


@case(40)
async def spellings(w: World) -> None:
    for name in ("M", "m:latest", "M:LATEST"):
        answer = await w.ask("generate", model=name, prompt="hi", options=FEW)
        assert answer["model"] == name


@case(41)
async def raw(w: World) -> None:
    answer = await w.ask("generate", model=M, prompt="hi", raw=True, options=FEW)
    assert answer["done"]
    assert "context" not in answer


@case(42)
async def raw_with_system(w: World) -> None:
    error = "raw mode does not support template, system, or context"
    await w.refuses(400, error, "/api/generate", model=M, prompt="hi", raw=True, system="s")


@case(43)
async def one_token(w: World) -> None:
    answer = await w.ask("generate", model=M, prompt="hi", options={**FEW, "num_predict": 1})
    assert (answer["done_reason"], answer["eval_count"]) == ("length", 1)


@case(44)
async def tokens_without_limit(w: World) -> None:
    first = (await w.ask("generate", model=M, prompt="hi", options=FEW))["response"]
    for most in (0, -1, -2):
        options = {**FEW, "num_predict": most, "stop": [first[2:4]]}
        answer = await w.ask("generate", model=M, prompt="hi", options=options)
        assert (answer["done_reason"], answer["eval_count"] >= 1) == ("stop", True)


@case(45)
async def stop_sequence(w: World) -> None:
    first = (await w.ask("generate", model=M, prompt="hi", options=FEW))["response"]
    stop = first[2:4]
    answer = await w.ask("generate", model=M, prompt="hi", options={**FEW, "stop": [stop]})
    assert answer["response"] == first[: first.index(stop)]
    assert answer["done_reason"] == "stop"


@case(46)
async def seed(w: World) -> None:
    options = {"seed": 42, "temperature": 0, "num_predict": 8}
    first, second = [
        (await w.ask("generate", model=M, prompt="hi", options=options))["response"]
        for _ in range(2)
    ]
    assert first == second


@case(47)
async def hot(w: World) -> None:
    error = 'option "temperature" must be of type float32'
    options = {"temperature": "hot"}
    await w.refuses(500, error, "/api/generate", model=M, prompt="hi", options=options)


@case(48)
async def unknown_option(w: World) -> None:
    options = {**FEW, "nope": 1, "top_k": None}
    assert (await w.ask("generate", model=M, prompt="hi", options=options))["done"]


@case(49)
async def unknown_format(w: World) -> None:
    error = 'invalid format: "\\"xml\\""; expected "json" or a valid JSON Schema object'
    await w.refuses(500, error, "/api/generate", model=M, prompt="hi", format="xml")


@case(50)
async def json_format(w: World) -> None:
    # Random weights seldom come to an end: the seed decides which words they write.
    for seed in range(60):
        options = {"temperature": 3, "top_k": 0, "top_p": 1, "seed": seed, "num_predict": 60}
        answer = await w.ask("generate", model=M, prompt="12", format="json", options=options)
        if answer["done_reason"] == "stop":
            break
    assert isinstance(json.loads(answer["response"]), dict)


@case(51)
async def schema(w: World) -> None:
    options = {"num_predict": 50}
    answer = await w.ask("generate", model=M, prompt="hi", format=SCHEMA, options=options)
    found = json.loads(answer["response"])
    assert list(found) == ["ok"]
    assert isinstance(found["ok"], bool)


@case(52)
async def empty_format(w: World) -> None:
    assert (await w.ask("generate", model=M, prompt="hi", format="", options=FEW))["response"]


@case(53)
async def suffix(w: World) -> None:
    error = f"{QUALIFIED} does not support insert"
    await w.refuses(400, error, "/api/generate", model=M, prompt="x", suffix="y")


@case(54)
async def thinking_of_one_who_cannot(w: World) -> None:
    error = '"m" does not support thinking'
    await w.refuses(400, error, "/api/chat", model=M, messages=USER, think=True)


@case(55)
async def no_thinking_of_one_who_cannot(w: World) -> None:
    answer = await w.ask("chat", model=M, messages=USER, think=False, options=FEW)
    assert "thinking" not in answer["message"]


@case(56)
async def thinking_unless_told(w: World) -> None:
    parts = lines(await w.post("/api/chat", model=T, messages=USER, options=FEW))
    thinking = [part["message"] for part in parts if "thinking" in part["message"]]
    assert thinking
    assert all(message["content"] == "" for message in thinking)


@case(57)
async def no_thinking(w: World) -> None:
    parts = lines(await w.post("/api/chat", model=T, messages=USER, think=False, options=FEW))
    assert not any("thinking" in part["message"] for part in parts)
    assert "".join(part["message"]["content"] for part in parts)


@case(58)
async def thinking_hard(w: World) -> None:
    answer = await w.ask("chat", model=T, messages=USER, think="high", options=FEW)
    assert answer["message"]["thinking"]


@case(59)
async def tools_of_one_who_cannot(w: World) -> None:
    error = f"{QUALIFIED} does not support tools"
    await w.refuses(400, error, "/api/chat", model=M, messages=USER, tools=[TOOL])


@case(60)
async def tool_call(w: World) -> None:
    request = {"model": SIM, "messages": user("weather"), "tools": [TOOL], "stream": False}
    answer = (await w.sim.post("/api/chat", request)).json()
    call = answer["message"]["tool_calls"][0]
    assert isinstance(call["id"], str)
    assert call["function"]["name"] == "get_weather"
    assert call["function"]["arguments"] == {"city": "Paris"}
    assert call["function"]["index"] == 0
    assert answer["done_reason"] == "stop"


@case(61)
async def tool_result(w: World) -> None:
    function = {"name": "get_weather", "arguments": {"city": "Paris"}}
    messages: list[dict[str, Any]] = [
        *USER,
        {"role": "assistant", "content": "", "tool_calls": [{"function": function}]},
        {"role": "tool", "content": "rainy", "tool_name": "get_weather"},
    ]
    answer = await w.ask("chat", model=T, messages=messages, tools=[TOOL], think=False, options=FEW)
    assert answer["message"]["content"]


@case(63)
async def logprobs(w: World) -> None:
    for route, work in (("generate", {"prompt": "hi"}), ("chat", {"messages": USER})):
        answer = await w.ask(route, model=M, logprobs=True, top_logprobs=2, options=FEW, **work)
        assert len(answer["logprobs"]) == FEW["num_predict"]
        for each in answer["logprobs"]:
            assert bytes(each["bytes"]).decode() == each["token"]
            assert each["logprob"] <= 0
            others = [other["logprob"] for other in each["top_logprobs"]]
            assert len(others) <= 2
            assert others == sorted(others, reverse=True)


@case(64)
async def logprobs_alone(w: World) -> None:
    answer = await w.ask("generate", model=M, prompt="hi", logprobs=True, options=FEW)
    assert answer["logprobs"]
    assert not any("top_logprobs" in each for each in answer["logprobs"])


@case(65)
async def roles(w: World) -> None:
    for role in ("USER", "alien"):
        messages = [{"role": role, "content": "hi"}]
        assert (await w.ask("chat", model=M, messages=messages, options=FEW))["done"]


@case(66)
async def rendering(w: World) -> None:
    for route, work in (("generate", {"prompt": "hi"}), ("chat", {"messages": USER})):
        answer = await w.ask(route, model=M, _debug_render_only=True, **work)
        assert "hi" in answer["_debug_info"]["rendered_template"]
        assert answer["done"] is False
