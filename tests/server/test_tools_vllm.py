"""Stop sequences and tool calls in real vLLM's wire: one engine shared by all tests."""

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from tests.server.house import Given, House, listening, serving
from tests.server.test_tool_choice import CHOICES, COLOUR, HELLO, TIME, TOOLS
from tests.server.test_tool_choice import request as asking
from tests.server.test_translation import events, ndjson
from vllama.engines.engine import Endpoint
from vllama.profile import Profile
from vllama.server.lifecycle.plan import Plan, Start
from vllama.settings import Settings

pytestmark = pytest.mark.vllm
PARSES = {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"}
# Two calls with text before them, as a trained model would write them for that parser.
WRITTEN = (
    'Well.\n<tool_call>\n{"name": "paint", "arguments": {"colour": "red"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "get_time", "arguments": {"zone": "CET"}}\n</tool_call>'
)
# A template that shows tools, which makes the toy a model that takes them.
TEMPLATE = (
    "{%- if tools %}<|im_start|>system\nCall as <tool_call>{}</tool_call>:"
    "{%- for tool in tools %}\n{{ tool | tojson }}{%- endfor %}<|im_end|>\n{%- endif %}"
    "{%- for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{%- endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{%- endif %}"
)
CALLED = [("paint", {"colour": "red"}), ("get_time", {"zone": "CET"})]
GREEDY = {"temperature": 0, "num_predict": 16}
ENDS = ("tool_calls", "stop")
UNHEARD = ["<1>", "<2>", "<3>", "<4>", "<5>"]


class One:
    """Brings up every model with one engine that is there, launched with these options."""

    def __init__(self, endpoint: Endpoint, options: dict[str, Any]) -> None:
        self._start = Start(Given(endpoint), Profile("given", "vllm", endpoint.model, options))

    def key(self, name: str) -> str:
        return name

    def plan(self, key: str) -> Plan:
        return Plan((), others=(self._start,))


@pytest.fixture(scope="module")
def skilled(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy of all tests, with that template; the engine keeps its own."""
    folder = tmp_path_factory.mktemp("skilled") / "skilled"
    shutil.copytree(toy, folder, ignore=shutil.ignore_patterns("*.gguf"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATE}))
    return folder


@pytest.fixture(scope="module", params=[PARSES, {}], ids=["parsing", "rendering"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Prompts and calls are left to vLLM and its parser, or it is taken to have none.

    Then vllama renders the prompts and finds the calls.
    """
    found: dict[str, Any] = request.param
    return found


@pytest.fixture(scope="module")
async def house(
    skilled: Path,
    vllm_endpoint: Endpoint,
    session_settings: Settings,
    options: dict[str, Any],
) -> AsyncIterator[House]:
    async with serving(One(vllm_endpoint, options), session_settings, [str(skilled)]) as each:
        yield each


@pytest.fixture(scope="module")
async def scripted(
    skilled: Path,
    vllm_endpoint: Endpoint,
    session_settings: Settings,
    options: dict[str, Any],
) -> AsyncIterator[House]:
    """Random weights can only write `WRITTEN`."""
    async with insisting(vllm_endpoint.base_url, WRITTEN) as url:
        choose = One(replace(vllm_endpoint, base_url=url), options)
        async with serving(choose, session_settings, [str(skilled)]) as each:
            yield each


@asynccontextmanager
async def insisting(engine: str, text: str) -> AsyncIterator[str]:
    """A way to vLLM on which each answer is `text`; what comes back is left as it is."""
    async with httpx.AsyncClient(base_url=engine, trust_env=False, timeout=300) as client:

        async def passed(asked: Request) -> StreamingResponse:
            body = await asked.body()
            if asked.url.path in ("/v1/chat/completions", "/v1/completions"):
                insisted = {**json.loads(body), "structured_outputs": {"choice": [text]}}
                body = json.dumps(insisted).encode()
            onward = client.build_request(asked.method, asked.url.path, content=body)
            onward.headers["content-type"] = "application/json"
            answer = await client.send(onward, stream=True)
            return StreamingResponse(answer.aiter_raw(), answer.status_code, answer.headers)

        async with listening(
            Starlette(routes=[Route("/{path:path}", passed, methods=["GET", "POST"])])
        ) as url:
            yield url


def called(calls: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """Names and arguments of OpenAI's calls, whole or in the pieces of a stream."""
    found: dict[int, dict[str, str]] = {}
    for at, call in enumerate(calls):
        each = found.setdefault(call.get("index", at), {"name": "", "arguments": ""})
        for key, value in call["function"].items():
            each[key] += value or ""
    return [(each["name"], json.loads(each["arguments"])) for each in found.values()]


def streamed(response: httpx.Response) -> tuple[str, list[dict[str, Any]], str]:
    """Text, pieces of calls, and the reason for the end of an OpenAI stream."""
    assert response.status_code == 200, response.text
    choices = [each for event in events(response)[:-1] for each in event["choices"]]
    text = "".join(each["delta"].get("content") or "" for each in choices)
    calls = [call for each in choices for call in each["delta"].get("tool_calls") or ()]
    return text, calls, next(e["finish_reason"] for e in choices if e["finish_reason"])


@pytest.mark.parametrize("route", ["chat", "generate"])
async def test_a_stop_sequence_that_vllm_was_not_told_of_ends_the_answer(
    house: House, skilled: Path, route: str
) -> None:
    asked = {"messages": HELLO} if route == "chat" else {"prompt": "hello"}
    options: dict[str, Any] = dict(GREEDY)

    async def said() -> tuple[str, str, int]:
        body = {"model": skilled.name, "options": options, **asked}
        lines = ndjson(await house.post(f"/api/{route}", body))
        whole = (await house.post(f"/api/{route}", {**body, "stream": False})).json()
        texts = [
            each["message"]["content"] if route == "chat" else each["response"]
            for each in [*lines, whole]
        ]
        assert "".join(texts[:-1]) == texts[-1]
        assert whole["done_reason"] == lines[-1]["done_reason"]
        return texts[-1], whole["done_reason"], whole["eval_count"]

    text, reason, tokens = await said()
    assert (reason, tokens) == ("length", GREEDY["num_predict"])
    stop = text[len(text) // 2 :][:3]
    options["stop"] = [*UNHEARD, stop]
    cut, reason, tokens = await said()
    assert (cut, reason) == (text[: text.index(stop)], "stop")
    assert 0 < tokens <= GREEDY["num_predict"]


@pytest.mark.parametrize(("choice", "allowed"), CHOICES, ids=["any", "paint", "time"])
async def test_random_weights_call_what_they_have_to(
    house: House, skilled: Path, choice: Any, allowed: set[str]
) -> None:
    one = asking(skilled.name, choice, parallel_tool_calls=False)
    answer = await house.post("/v1/chat/completions", one)
    assert answer.status_code == 200, answer.text
    [found] = answer.json()["choices"]
    [(name, arguments)] = called(found["message"]["tool_calls"])
    assert name in allowed
    assert arguments in ({"zone": "UTC"}, {"zone": "CET"}, {"colour": "red"})
    # By OpenAI's rules an answer that was forced to be this call may end with `stop`.
    assert found["finish_reason"] in ENDS
    told = await house.post("/v1/chat/completions", one | {"stream": True})
    text, calls, reason = streamed(told)
    assert (text, called(calls)) == ("", [(name, arguments)])
    assert reason in ENDS


async def test_what_is_called_reaches_openais_clients(scripted: House, skilled: Path) -> None:
    functions = [{**each, "strict": True} for each in (TIME, COLOUR)]
    strict = [{"type": "function", "function": each} for each in functions]
    body = asking(skilled.name, "auto", tools=strict)
    answer = await scripted.post("/v1/chat/completions", body)
    [found] = answer.json()["choices"]
    assert called(found["message"]["tool_calls"]) == CALLED
    assert found["message"]["content"].strip() == "Well."
    told = await scripted.post("/v1/chat/completions", body | {"stream": True})
    text, calls, reason = streamed(told)
    assert (text.strip(), called(calls), reason) == ("Well.", CALLED, "tool_calls")
    ids = [call["id"] for call in calls if call.get("id")]
    assert len(set(ids)) == len(CALLED)


@pytest.mark.parametrize("stream", [True, False])
async def test_what_is_called_reaches_ollamas_clients(
    scripted: House, skilled: Path, stream: bool
) -> None:
    body = {"model": skilled.name, "messages": HELLO, "tools": TOOLS, "stream": stream}
    response = await scripted.post("/api/chat", body)
    assert response.status_code == 200, response.text
    lines = ndjson(response)
    calls = [call for each in lines for call in each["message"].get("tool_calls") or ()]
    assert [(c["function"]["name"], c["function"]["arguments"]) for c in calls] == CALLED
    assert "".join(each["message"]["content"] for each in lines).strip() == "Well."
    assert lines[-1]["done_reason"] == "stop"


@pytest.mark.parametrize("stream", [True, False])
async def test_what_is_called_reaches_anthropics_clients(
    scripted: House, skilled: Path, stream: bool
) -> None:
    tools = [{"name": t["name"], "input_schema": t["parameters"]} for t in (COLOUR, TIME)]
    body = {"model": skilled.name, "messages": HELLO, "max_tokens": 200, "tools": tools}
    response = await scripted.post("/v1/messages", {**body, "stream": stream})
    assert response.status_code == 200, response.text
    if not stream:
        used = [b for b in response.json()["content"] if b["type"] == "tool_use"]
        assert [(each["name"], each["input"]) for each in used] == CALLED
        assert response.json()["stop_reason"] == "tool_use"
        return
    told = events(response)
    names = [
        event["content_block"]["name"]
        for event in told
        if event["type"] == "content_block_start" and event["content_block"]["type"] == "tool_use"
    ]
    inputs: dict[int, str] = {}
    for event in told:
        if event["type"] == "content_block_delta" and "partial_json" in event["delta"]:
            inputs.setdefault(event["index"], "")
            inputs[event["index"]] += event["delta"]["partial_json"]
    assert list(zip(names, map(json.loads, inputs.values()), strict=True)) == CALLED
