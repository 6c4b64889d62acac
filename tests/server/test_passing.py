"""What needs no work goes to somebody else's engine, and comes back, byte for byte."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.server.fakes import upstream
from tests.server.house import Always, Given, serving
from vllama.engines.engine import Endpoint, Immortal
from vllama.settings import Settings

# No general encoder would write these so.
STREAM = (
    b'data: {"id" : "x", "choices":[ {"index":0,"delta":{"content":"\\u00e9<b>"}} ] }\n\n'
    b": a comment\n\n"
    b'data: {"id":"x","choices":[{"index":0,"delta":{"content":" odd"},"finish_reason":null}]}\n\n'
    b'data: {"id":"x","choices":[{"index":0,"delta":{},"finish_reason":"stop","own":1}]}\n\n'
    b"data: [DONE]\n\n"
)
# As vLLM begins, in a piece of its own.
ROLE = (
    b'data: {"id":"x","choices":[{"index":0,"delta":{"role":"assistant","content":""},'
    b'"logprobs":null,"finish_reason":null}],"prompt_token_ids":null}\n\n'
)
WHOLE = (
    b'{ "id":"w","choices":[{"index":0,"message":{"role":"assistant","content":"\\u003cb>"},'
    b'"finish_reason":"stop"}], "usage":{"prompt_tokens":1,"completion_tokens":2}, "own":true }'
)
OK = b"HTTP/1.1 200 OK\r\ncontent-type: "
MESSAGES = [{"role": "user", "content": "hi"}]


@dataclass
class Foreign:
    """A house before an engine of somebody else, and what that engine was asked."""

    url: str = ""
    asked: list[bytes] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    # What it sends of its first answer before it breaks off.
    torn: bytes = b""

    async def answer(
        self, body: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if not body:
            listed = b'{"data":[{"id":"m","max_model_len":2048}]}'
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(listed), listed))
            return
        self.asked.append(body)
        if not json.loads(body).get("stream"):
            head = (
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            )
            writer.write(head % len(WHOLE) + WHOLE)
            return
        writer.write(OK + b"text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        if self.torn and len(self.asked) == 1:
            writer.write(b"%x\r\n%b\r\n" % (len(self.torn), self.torn))
            raise ConnectionResetError
        for piece in self.pieces or [STREAM]:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    async def post(self, body: bytes, path: str = "/v1/chat/completions") -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.url, trust_env=False) as client:
            return await client.post(path, content=body)


@pytest.fixture
async def foreign(settings: Settings) -> AsyncIterator[Foreign]:
    made = Foreign()
    async with upstream(made.answer) as url:
        endpoint = Endpoint(url, "m", "attached", Immortal(), facts={"engine": "openai"})
        engines: dict[str, Any] = {"m": Given(endpoint), "alias": Given(endpoint)}
        attached = dict.fromkeys(engines, (url,))
        async with serving(Always(engines), settings, attached=attached) as house:
            made.url = house.url
            yield made


def body(**more: Any) -> bytes:
    # Spaces and an order that no encoder here would choose.
    return json.dumps({"messages": MESSAGES, "model": "m", **more}, indent=1).encode()


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
async def test_a_stream_passes_byte_for_byte_however_it_is_cut(foreign: Foreign, size: int) -> None:
    foreign.pieces = [STREAM[i : i + size] for i in range(0, len(STREAM), size)]
    asked = body(stream=True, top_k=3, ignore_eos=True, unheard_of={"of": [1, None]})
    answer = await foreign.post(asked)
    assert foreign.asked == [asked]
    assert answer.content == STREAM
    assert answer.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize(
    "pieces",
    [[ROLE, STREAM], [ROLE + STREAM], [ROLE], [ROLE, ROLE, STREAM], [ROLE[:50], ROLE[50:], STREAM]],
    ids=["apart", "together", "alone", "of two choices", "cut"],
)
async def test_a_stream_that_first_says_who_speaks_passes_byte_for_byte(
    foreign: Foreign, pieces: list[bytes]
) -> None:
    foreign.pieces = pieces
    answer = await foreign.post(body(stream=True))
    assert answer.content == b"".join(pieces)


async def test_an_engine_that_has_only_said_who_speaks_may_be_asked_again(foreign: Foreign) -> None:
    foreign.torn = ROLE
    answer = await foreign.post(body(stream=True))
    assert len(foreign.asked) == 2
    assert answer.content == STREAM


async def test_an_engine_that_has_begun_to_speak_is_not_asked_again(foreign: Foreign) -> None:
    foreign.torn = STREAM[:150]
    answer = await foreign.post(body(stream=True))
    assert len(foreign.asked) == 1
    assert answer.content.startswith(STREAM[:150])
    assert b'"error"' in answer.content


async def test_a_whole_answer_passes_byte_for_byte(foreign: Foreign) -> None:
    asked = body(temperature=0.3)
    answer = await foreign.post(asked)
    assert foreign.asked == [asked]
    assert answer.content == WHOLE


@pytest.mark.parametrize(
    "more",
    [
        {"model": "alias"},
        {"stop": ["a", "b", "c", "d", "e"]},
        {"reasoning_effort": "low"},
        {"Temperature": 0.3},
        {"messages": [{"role": "user", "content": "long " * 3000}]},
    ],
    ids=["another name", "more stops", "effort", "other letters", "too long"],
)
async def test_what_needs_work_is_put_into_the_engines_words(
    foreign: Foreign, more: dict[str, Any]
) -> None:
    asked = body(**more)
    answer = await foreign.post(asked)
    assert asked not in foreign.asked
    if foreign.asked:
        assert json.loads(foreign.asked[-1])["model"] == "m"
    assert answer.content != WHOLE


async def test_a_request_that_is_wrong_never_reaches_the_engine(foreign: Foreign) -> None:
    answer = await foreign.post(b'{"model":"m","messages":[]}')
    assert answer.status_code == 400
    assert not foreign.asked


@pytest.mark.parametrize("prompt", ["hi", ["a", "b"], [1, 2, 3], "long " * 3000])
async def test_a_completion_passes_byte_for_byte_and_is_not_cut(
    foreign: Foreign, prompt: Any
) -> None:
    asked = json.dumps({"prompt": prompt, "model": "m", "echo": True}, indent=1).encode()
    answer = await foreign.post(asked, "/v1/completions")
    assert foreign.asked == [asked]
    assert answer.content == WHOLE
    foreign.asked.clear()
    streamed = json.dumps({"prompt": prompt, "stream": True, "model": "m"}).encode()
    assert (await foreign.post(streamed, "/v1/completions")).content == STREAM
    assert foreign.asked == [streamed]


async def test_embeddings_pass_byte_for_byte(foreign: Foreign) -> None:
    asked = json.dumps({"input": ["a", "b"], "model": "m", "own": 1}, indent=1).encode()
    answer = await foreign.post(asked, "/v1/embeddings")
    assert foreign.asked == [asked]
    assert answer.content == WHOLE
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("more", [{"model": "alias"}, {"dimensions": 8}, {"Input": "a"}])
async def test_embeddings_that_need_work_are_asked_in_the_engines_words(
    foreign: Foreign, more: dict[str, Any]
) -> None:
    asked = json.dumps({"input": "a", "model": "m", **more}, indent=1).encode()
    await foreign.post(asked, "/v1/embeddings")
    assert asked not in foreign.asked
    assert json.loads(foreign.asked[-1])["input"] == ["a"]
