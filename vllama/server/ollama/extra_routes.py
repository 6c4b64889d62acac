"""Routes that Ollama's users ask for and Ollama lacks: tokens of a text and back, and ranking."""

import math
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from vllama.server.lifecycle.pool import Pool
from vllama.server.ollama.requests import fields
from vllama.server.ollama.wire import DETOKENIZE, RERANK, TOKENIZE
from vllama.server.relay import relay
from vllama.server.relay.exchange import Reply
from vllama.server.relay.refusal import Refusal, of_engine
from vllama.server.relay.written import JSON
from vllama.server.translation import engine_calls
from vllama.server.web.schema import body_of
from vllama.server.web.service import Service, answered
from vllama.store.card import Card

# Families whose scores llama.cpp has turned into probabilities itself.
_SQUASHED = frozenset({"qwen3", "qwen3vl"})


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["vllama"])

    @routes.post("/api/tokenize", openapi_extra=body_of(TOKENIZE))
    async def tokenize(request: Request) -> Response:
        found = fields(await service.body(request), TOKENIZE)
        key = await _key(service, found)
        text = found.get("content") or found.get("text") or found.get("prompt") or ""
        special = found.get("add_special", True)
        work = _tokens(service.pool, key, text, special, found.get("keep_alive"))
        tokens = await relay.connected(request, work)
        return answered({"model": found["model"], "tokens": tokens, "count": len(tokens)})

    @routes.post("/api/detokenize", openapi_extra=body_of(DETOKENIZE))
    async def detokenize(request: Request) -> Response:
        found = fields(await service.body(request), DETOKENIZE)
        key = await _key(service, found)
        tokens = [token for token in found.get("tokens") or () if token is not None]
        await _check_tokens(service, found["model"], tokens)
        text = await relay.connected(
            request, _text(service.pool, key, tokens, found.get("keep_alive"))
        )
        return answered({"model": found["model"], "content": text})

    for path in ("/v1/rerank", "/api/rerank"):
        _rerank(routes, service, path)
    return routes


def _rerank(routes: APIRouter, service: Service, path: str) -> None:
    @routes.post(path, openapi_extra=body_of(RERANK), name=path)
    async def rerank(request: Request) -> Response:
        empty = "EOF" if path.startswith("/v1") else "missing request body"
        found = fields(await service.body(request), RERANK, empty=empty)
        key = await _key(service, found)
        texts = [_document(each) for each in found.get("documents") or ()]
        if not texts:
            raise Refusal(400, "documents is required")
        card = await service.models.card(found["model"])
        ranked = await relay.connected(request, _ranked(service.pool, key, found, texts, card))
        return answered(ranked, media_type=JSON)


async def _key(service: Service, found: dict[str, Any]) -> str:
    name = found.get("model", "")
    if not name.strip():
        raise Refusal(400, "model is required")
    await service.models.card(name)
    return service.models.key(name)


async def _check_tokens(service: Service, name: str, tokens: list[int]) -> None:
    card = await service.models.card(name)
    most = card.model.shape.vocabulary if card is not None else 2**31
    for token in tokens:
        if not 0 <= token < most:
            raise Refusal(400, f"{token} is no token of this model")


async def _tokens(
    pool: Pool, key: str, text: str, special: bool, keep_alive_s: float | None
) -> list[int]:
    async with pool.lease(key, keep_alive_s) as lease:
        return await engine_calls.tokenize(lease, text, special=special)


async def _text(pool: Pool, key: str, tokens: list[int], keep_alive_s: float | None) -> str:
    async with pool.lease(key, keep_alive_s) as lease:
        return await engine_calls.detokenize(lease, tokens)


async def _ranked(
    pool: Pool, key: str, found: dict[str, Any], texts: list[str], card: Card | None
) -> Any:
    async with pool.lease(key, found.get("keep_alive")) as lease:
        body = {
            "model": lease.endpoint.model,
            "query": found.get("query", ""),
            "documents": texts,
            "top_n": found.get("top_n") or len(texts),
        }
        reply: Reply = await relay.fetch(lease, engine_calls.post("/v1/rerank", body))
    if reply.status in (404, 501):
        raise Refusal(400, f'"{found["model"]}" does not support rerank')
    if reply.status != 200:
        raise of_engine(reply)
    results = engine_calls.document(reply).get("results") or []
    logits = engine_calls.is_llamacpp(lease) and card is not None and card.family not in _SQUASHED
    told = [
        {"index": each["index"], "relevance_score": _score(each["relevance_score"], logits)}
        | ({"document": {"text": texts[each["index"]]}} if found.get("return_documents") else {})
        for each in results
    ]
    told.sort(key=lambda each: -each["relevance_score"])
    return {
        "model": found["model"],
        "results": told[: found.get("top_n") or len(told)],
        "usage": {"total_tokens": _total(engine_calls.document(reply))},
    }


def _score(given: float, is_logit: bool) -> float:
    """Between 0 and 1, as vLLM and the hosted rerankers have it: llama.cpp tells bare logits."""
    return (1 + math.tanh(given / 2)) / 2 if is_logit else given


def _total(document: dict[str, Any]) -> int:
    return int((document.get("usage") or {}).get("total_tokens") or 0)


def _document(given: Any) -> str:
    if isinstance(given, dict):
        given = given.get("text")
    if not isinstance(given, str):
        raise Refusal(400, "documents must be texts")
    return given
