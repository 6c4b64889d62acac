"""Asking a server that has just come up whether it really answers."""

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

import httpx

from vllama.errors import EngineFailed


async def is_healthy(base_url: str) -> bool:
    """Whether `/health` says 200; False too when nobody listens yet."""
    if not await is_listening(base_url):
        return False
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=5) as client:
        try:
            return (await client.get(f"{base_url}/health")).status_code == 200
        except httpx.TransportError:
            return False


async def is_listening(base_url: str) -> bool:
    """Whether anybody takes connections there: a question that costs next to nothing."""
    address = urlsplit(base_url)
    try:
        port = address.port or (443 if address.scheme == "https" else 80)
        _, writer = await asyncio.open_connection(address.hostname, port)
    except OSError:
        return False
    writer.close()
    return True


async def first_answer(base_url: str, model: str, *, embeds: bool, timeout_s: float) -> None:
    """One real request: a healthy server may still die on its first.

    One that `embeds` may instead only rank, or sort into classes: it has one of these routes.

    Raises:
        EngineFailed: it did not answer it.
    """
    questions: list[tuple[str, dict[str, Any]]] = [
        ("/v1/completions", {"prompt": "hi", "max_tokens": 1})
    ]
    if embeds:
        questions = [
            ("/v1/embeddings", {"input": "hi"}),
            ("/v1/rerank", {"query": "hi", "documents": ["hi"]}),
            ("/classify", {"input": "hi"}),
        ]
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=timeout_s) as client:
            for path, body in questions:
                response = await client.post(f"{base_url}{path}", json={"model": model, **body})
                if response.status_code != 404:
                    break
    except httpx.HTTPError as error:
        raise EngineFailed(
            f"the engine came up but did not answer: {error!r}", kind="hang"
        ) from error
    if response.status_code != 200:
        raise EngineFailed(
            f"the engine came up but answered {response.status_code}: {response.text[:300]}",
            kind="bad_model",
        )


async def ask_json(base_url: str, path: str) -> dict[str, Any]:
    """A JSON object from a GET; empty when there is none."""
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        try:
            response = await client.get(f"{base_url}{path}")
            document = response.json() if response.status_code == 200 else {}
        except (httpx.HTTPError, json.JSONDecodeError):
            return {}
    return document if isinstance(document, dict) else {}
