"""The openai and anthropic SDKs, and OpenAI's routes beyond Ollama, on a real llama.cpp."""

import base64
import struct
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest

from tests.server.house import House

pytestmark = pytest.mark.llamacpp
GREEDY = {"temperature": 0}
HELLO: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.fixture
async def sdk(ollama_like: House) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{ollama_like.url}/v1", api_key="ollama") as client:
        yield client


@pytest.fixture
async def claude(ollama_like: House) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=ollama_like.url, api_key="ollama") as client:
        yield client


async def test_chat_whole_and_streamed_agree(sdk: openai.AsyncOpenAI) -> None:
    whole = await sdk.chat.completions.create(
        model="m", messages=HELLO, temperature=0, max_tokens=6
    )
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    stream = await sdk.chat.completions.create(
        model="m", messages=HELLO, temperature=0, max_tokens=6, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = [chunk async for chunk in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert not chunks[-1].choices


async def test_what_ollama_ignores_is_honoured(sdk: openai.AsyncOpenAI, ollama_like: House) -> None:
    short = await sdk.chat.completions.create(model="m", messages=HELLO, max_completion_tokens=3)
    assert short.usage is not None
    assert short.usage.completion_tokens == 3
    two = await sdk.chat.completions.create(model="m", messages=HELLO, max_tokens=3, n=2)
    assert [choice.index for choice in two.choices] == [0, 1]
    only = await ollama_like.post("/api/tokenize", {"model": "m", "content": "def"})
    [allowed] = only.json()["tokens"]
    forced = await sdk.chat.completions.create(
        model="m", messages=HELLO, max_tokens=2, temperature=0,
        logit_bias={str(token): -100 for token in range(4096) if token != allowed},
    )  # fmt: skip
    assert forced.choices[0].message.content == "defdef"


async def test_a_list_of_prompts_has_an_answer_each(sdk: openai.AsyncOpenAI) -> None:
    many = await sdk.completions.create(
        model="m", prompt=["hello", "x"], max_tokens=3, temperature=0
    )
    assert [choice.index for choice in many.choices] == [0, 1]
    one = await sdk.completions.create(model="m", prompt="x", max_tokens=3, temperature=0)
    assert many.choices[1].text == one.choices[0].text


async def test_models_are_listed_and_found_by_any_name(
    sdk: openai.AsyncOpenAI, ollama_like: House
) -> None:
    assert "m:latest" in [model.id async for model in sdk.models.list()]
    assert (await sdk.models.retrieve("m")).owned_by == "library"
    await ollama_like.post("/api/copy", {"source": "m", "destination": "someone/m"})
    spaced = await sdk.models.retrieve("someone/m")
    assert spaced.owned_by == "someone"
    with pytest.raises(openai.NotFoundError):
        await sdk.models.retrieve("nope")


async def test_embeddings_come_as_floats_and_as_base64(
    sdk: openai.AsyncOpenAI, ollama_like: House
) -> None:
    made = await sdk.embeddings.create(model="e", input=["a", "b"], encoding_format="float")
    assert len(made.data) == 2
    raw = await ollama_like.post(
        "/v1/embeddings", {"model": "e", "input": "a", "encoding_format": "base64"}
    )
    data = base64.b64decode(raw.json()["data"][0]["embedding"])
    values = struct.unpack(f"<{len(data) // 4}f", data)
    assert values == pytest.approx(made.data[0].embedding, abs=1e-5)
    wrong = await ollama_like.post(
        "/v1/embeddings", {"model": "e", "input": "a", "encoding_format": "int8"}
    )
    assert wrong.json()["error"]["message"] == (
        "Invalid value for 'encoding_format' = int8. Supported values: ['float', 'base64']."
    )


async def test_responses_whole_and_streamed(sdk: openai.AsyncOpenAI) -> None:
    whole = await sdk.responses.create(model="m", input="hello", temperature=0, max_output_tokens=5)
    assert whole.status == "completed"
    stream = await sdk.responses.create(
        model="m", input="hello", temperature=0, max_output_tokens=5, stream=True
    )
    told = [event async for event in stream]
    text = "".join(e.delta for e in told if e.type == "response.output_text.delta")
    assert text == whole.output_text
    assert told[-1].type == "response.completed"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"reasoning_effort": "bogus"}, 'invalid reasoning value: "bogus" (must be "minimal"'),
        ({"stop": [1]}, "invalid type for 'stop' field: float64"),
        ({"messages": [{"role": "user", "content": None}]}, "invalid message content type: <nil>"),
        ({"messages": [{"role": "user", "content": [5]}]}, "invalid message format"),
        ({"response_format": 5}, "json: cannot unmarshal number into Go struct field"),
    ],
)
async def test_bad_chat_requests_have_ollamas_texts(
    ollama_like: House, body: dict[str, Any], message: str
) -> None:
    response = await ollama_like.post(
        "/v1/chat/completions", {"model": "m", "messages": HELLO, **body}
    )
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith(message)
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_reasoning_effort_none_switches_thinking_off(sdk: openai.AsyncOpenAI) -> None:
    off = await sdk.chat.completions.create(
        model="t", messages=HELLO, max_tokens=4, reasoning_effort="none"
    )
    assert off.choices[0].message.content
    assert "reasoning" not in off.choices[0].message.to_dict()


async def test_messages_whole_streamed_and_counted(claude: anthropic.AsyncAnthropic) -> None:
    whole = await claude.messages.create(
        model="m", max_tokens=5, messages=HELLO, system="be brief", extra_body=GREEDY
    )
    assert whole.stop_reason == "max_tokens"
    assert whole.usage.output_tokens == 5
    async with claude.messages.stream(
        model="m", max_tokens=5, messages=HELLO, system="be brief", extra_body=GREEDY
    ) as stream:
        text = "".join([piece async for piece in stream.text_stream])
    assert text == whole.content[0].to_dict()["text"]
    counted = await claude.messages.count_tokens(model="m", messages=HELLO, system="be brief")
    assert counted.input_tokens == whole.usage.input_tokens


async def test_messages_errors_have_anthropics_types(claude: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="model 'nope' not found"):
        await claude.messages.create(model="nope", max_tokens=1, messages=HELLO)
    with pytest.raises(anthropic.BadRequestError, match="max_tokens is required"):
        await claude.messages.create(model="m", max_tokens=0, messages=HELLO)
