"""Ollama's routes for embeddings: the present one and the legacy one."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from vllama.server.ollama.requests import fields
from vllama.server.ollama.wire import EMBED, EMBEDDINGS
from vllama.server.relay import relay
from vllama.server.relay.refusal import Refusal
from vllama.server.translation import options
from vllama.server.translation.embedding import Wish, embed
from vllama.server.web.schema import body_of
from vllama.server.web.service import Service, answered


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["ollama"])

    @routes.post("/api/embed", openapi_extra=body_of(EMBED))
    async def embed_many(request: Request) -> Response:
        found = fields(await service.body(request), EMBED)
        texts = _texts(found.get("input"))
        name = found.get("model", "")
        card = await service.models.to_embed(name)
        wish = _wish(service, found, card, texts, truncate=found.get("truncate", True))
        if not texts:
            await relay.connected(request, service.pool.preload(wish.key, wish.keep_alive_s))
            return answered({"model": name, "embeddings": []})
        made = await relay.connected(request, embed(wish, service.pool))
        told: dict[str, Any] = {
            "model": name,
            "embeddings": made.vectors,
            "total_duration": made.total_ns,
            "load_duration": made.load_ns,
        }
        if made.tokens:
            told["prompt_eval_count"] = made.tokens
        return answered(told)

    @routes.post("/api/embeddings", openapi_extra=body_of(EMBEDDINGS))
    async def embed_one(request: Request) -> Response:
        found = fields(await service.body(request), EMBEDDINGS)
        name = found.get("model", "")
        if not name.strip():
            raise Refusal(400, "model is required")
        card = await service.models.to_embed(name)
        prompt = found.get("prompt", "")
        wish = _wish(service, found, card, (prompt,) if prompt else (), is_raw=True)
        if not prompt:
            await relay.connected(request, service.pool.preload(wish.key, wish.keep_alive_s))
            return answered({"embedding": []})
        made = await relay.connected(request, embed(wish, service.pool))
        return answered({"embedding": made.vectors[0]})

    return routes


def _texts(given: Any) -> tuple[str, ...]:
    if given is None or given == "" or given == []:
        return ()
    if isinstance(given, str):
        return (given,)
    if isinstance(given, list) and all(isinstance(each, str) for each in given):
        return tuple(given)
    raise Refusal(400, "invalid input type")


def _wish(
    service: Service, found: dict[str, Any], card: Any, texts: tuple[str, ...], **more: Any
) -> Wish:
    asked = options.merged(card.parameters if card is not None else {}, found.get("options") or {})
    return Wish(
        key=service.models.key(found["model"]),
        card=card,
        texts=texts,
        num_ctx=int(asked.get("num_ctx") or 0),
        dimensions=found.get("dimensions", 0),
        keep_alive_s=found.get("keep_alive"),
        **more,
    )
