"""Bodies packed with zstd, as OpenAI's routes take them."""

import json
from typing import Any

import httpx
import pytest
import zstandard

from tests.server.house import Always, House, serving
from vllama.settings import Settings

ZSTD = {"content-encoding": "zstd"}


def packed(document: Any) -> bytes:
    return zstandard.compress(json.dumps(document).encode())


async def send(house: House, path: str, body: bytes) -> httpx.Response:
    async with house.client() as client:
        return await client.post(path, content=body, headers=ZSTD)


@pytest.mark.llamacpp
async def test_openais_and_anthropics_routes_take_packed_bodies(ollama_like: House) -> None:
    messages = [{"role": "user", "content": "hi"}]
    for path, work in (
        ("/v1/chat/completions", {"messages": messages}),
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/messages", {"messages": messages}),
    ):
        response = await send(ollama_like, path, packed({"model": "m", "max_tokens": 2, **work}))
        assert response.status_code == 200, response.text
        assert response.json()["usage"]


async def test_what_unpacks_to_too_much_is_refused(settings: Settings) -> None:
    async with serving(Always({}), settings, max_body_bytes=10_000) as house:
        body = packed({"model": "x" * 1_000_000})
        assert len(body) < 10_000
        response = await send(house, "/v1/chat/completions", body)
        assert response.status_code == 413
        fits = await send(house, "/v1/embeddings", packed({"model": "x" * 9_000, "input": "x"}))
        assert fits.status_code != 413


async def test_what_is_no_zstd_or_breaks_off_is_the_clients_error(settings: Settings) -> None:
    async with serving(Always({}), settings) as house:
        whole = packed({"model": "NX", "messages": [{"role": "user", "content": "hi"}]})
        assert (await send(house, "/v1/chat/completions", whole)).status_code == 404
        for body in (b"junk", b"", whole[:10], whole[:-3]):
            response = await send(house, "/v1/chat/completions", body)
            assert response.status_code == 400, body
            assert response.json()["error"]["type"] == "invalid_request_error"
