"""What one writes in an afternoon: FastAPI and httpx, translating each event. The baseline.

`python -m benchmarks.proxy.plain UPSTREAM PORT`.
"""

import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel


class Chat(BaseModel):
    """The request."""

    model: str
    messages: list[dict[str, Any]]
    stream: bool = True
    options: dict[str, Any] = {}


app = FastAPI()
client = httpx.AsyncClient(
    base_url=sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1",
    timeout=None,
    limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
)


@app.post("/api/chat")
async def chat(ask: Chat) -> Any:
    """Translate to OpenAI's API and back."""
    body = {
        "model": ask.model, "messages": ask.messages, "stream": ask.stream,
        "max_tokens": ask.options.get("num_predict", 100),
    }  # fmt: skip
    if not ask.stream:
        answer = (await client.post("/v1/chat/completions", json=body)).json()
        message = {"role": "assistant", "content": answer["choices"][0]["message"]["content"]}
        return {"model": ask.model, "message": message, "done": True}
    return StreamingResponse(lines(ask.model, body), media_type="application/x-ndjson")


async def lines(model: str, body: dict[str, Any]) -> AsyncIterator[str]:
    """One line for each event."""
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            for choice in json.loads(line[6:])["choices"]:
                message = {"role": "assistant", "content": choice["delta"].get("content") or ""}
                yield json.dumps({"model": model, "message": message, "done": False}) + "\n"
    yield json.dumps({"model": model, "message": {"content": ""}, "done": True}) + "\n"


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
