"""Images and documents to rank reach the engine as it wants them, from every API.

No model that sees or ranks is at hand, so the engine is a server that writes down what it is
asked and answers in vLLM's form.
"""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.server.house import Always, Given, House, listening, serving
from vllama.engines.engine import Endpoint, Immortal
from vllama.settings import Settings

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(40)).decode()
URL = f"data:image/png;base64,{PNG}"
ASKED = "what is this?"


class Engine:
    """Answers everything alike, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def answer(self, request: Request) -> JSONResponse:
        self.asked.append((request.url.path, await request.json()))
        message = {"role": "assistant", "content": "a cat"}
        ranked = [
            {"index": 1, "relevance_score": 0.9, "document": {"text": "b"}},
            {"index": 0, "relevance_score": 0.2, "document": {"text": "a"}},
        ]
        return JSONResponse(
            {
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "results": ranked,
                "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
            }
        )


@pytest.fixture
async def seen(settings: Settings) -> AsyncIterator[tuple[House, Engine]]:
    engine = Engine()
    app = Starlette(routes=[Route("/{path:path}", engine.answer, methods=["POST"])])
    async with listening(app) as url:
        given = Given(Endpoint(url, "eye", "vllm", Immortal()))
        async with serving(Always({"eye": given}), settings, attached={"eye": (url,)}) as house:
            yield house, engine


REQUESTS: dict[str, dict[str, Any]] = {
    "/api/chat": {"messages": [{"role": "user", "content": ASKED, "images": [PNG]}]},
    "/api/generate": {"prompt": ASKED, "images": [PNG]},
    "/v1/chat/completions": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": ASKED},
                    {"type": "image_url", "image_url": {"url": URL}},
                ],
            }
        ]
    },
    "/v1/messages": {
        "max_tokens": 9,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": ASKED},
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": PNG},
                    },
                ],
            }
        ],
    },
}


@pytest.mark.parametrize("path", REQUESTS)
async def test_an_image_reaches_the_engine_as_a_data_url(
    seen: tuple[House, Engine], path: str
) -> None:
    house, engine = seen
    response = await house.post(path, {"model": "eye", "stream": False, **REQUESTS[path]})
    assert response.status_code == 200, response.text
    assert "a cat" in response.text
    route, body = engine.asked[-1]
    assert route == "/v1/chat/completions"
    parts = [
        part for m in body["messages"] if isinstance(m["content"], list) for part in m["content"]
    ]
    assert {"type": "image_url", "image_url": {"url": URL}} in parts
    assert ASKED in json.dumps(body["messages"])


@pytest.mark.parametrize("path", ["/v1/rerank", "/api/rerank"])
async def test_documents_come_back_ranked(seen: tuple[House, Engine], path: str) -> None:
    house, engine = seen
    wanted = {"model": "eye", "query": "q", "documents": ["a", "b"], "return_documents": True}
    answer = (await house.post(path, wanted)).json()
    assert engine.asked[-1][0] == "/v1/rerank"
    assert engine.asked[-1][1]["documents"] == ["a", "b"]
    assert [(r["index"], r["document"]["text"]) for r in answer["results"]] == [(1, "b"), (0, "a")]
    assert answer["usage"] == {"total_tokens": 11}
