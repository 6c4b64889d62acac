"""Ollama's routes that make an engine work: generate, chat, and their loading and unloading."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from vllama.errors import ModelNotFound
from vllama.server.ollama import requests as ollama_requests
from vllama.server.ollama.voices import ChatVoice, GenerateVoice
from vllama.server.ollama.wire import CHAT, GENERATE
from vllama.server.relay import relay
from vllama.server.relay.refusal import Refusal
from vllama.server.relay.written import utc
from vllama.server.translation import prompts
from vllama.server.translation.ask import Ask
from vllama.server.translation.generation import Generation
from vllama.server.web.schema import body_of
from vllama.server.web.service import Service, answered


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["ollama"])

    @routes.post("/api/generate", openapi_extra=body_of(GENERATE))
    async def generate(request: Request) -> Response:
        found = ollama_requests.fields(await service.body(request), GENERATE)
        ollama_requests.check_top_logprobs(found)
        name = found.get("model", "")
        if not name.strip():
            raise ModelNotFound(name)
        card = await service.models.card(name)
        key = service.models.key(name)
        prompt = found.get("prompt", "")
        if not prompt and not found.get("suffix"):
            return await _without_work(service, request, found, key, card, {"response": ""})
        ask = ollama_requests.generate(found, key, card)
        if found.get("_debug_render_only"):
            return _rendered(ask, {"response": ""})
        voice = GenerateVoice(name, with_context=ask.tokens)
        return relay.answer(request, service.pool, Generation(ask, voice))

    @routes.post("/api/chat", openapi_extra=body_of(CHAT))
    async def chat(request: Request) -> Response:
        found = ollama_requests.fields(await service.body(request), CHAT)
        ollama_requests.check_top_logprobs(found)
        name = found.get("model", "")
        if not name.strip():
            raise Refusal(400, "model is required")
        card = await service.models.card(name)
        key = service.models.key(name)
        if not found.get("messages"):
            empty = {"message": {"role": "assistant", "content": ""}}
            return await _without_work(service, request, found, key, card, empty)
        ask = ollama_requests.chat(found, key, card)
        if found.get("_debug_render_only"):
            return _rendered(ask, {"message": {"role": "", "content": ""}})
        return relay.answer(request, service.pool, Generation(ask, ChatVoice(name)))

    return routes


async def _without_work(
    service: Service,
    request: Request,
    found: ollama_requests.Fields,
    key: str,
    card: Any,
    empty: dict[str, Any],
) -> Response:
    """Load the model, or let it go."""
    if ollama_requests.unloads(found):
        service.pool.unload(key)
        reason = "unload"
    else:
        work = "chat" if "message" in empty else "generate"
        ollama_requests.check_able(card, found["model"], work, think=found.get("think"))
        ollama_requests.common({**found, "format": None}, key, card)
        await relay.connected(request, service.pool.preload(key, found.get("keep_alive")))
        reason = "load"
    start = {"model": found["model"], "created_at": utc()}
    return answered({**start, **empty, "done": True, "done_reason": reason})


def _rendered(ask: Ask, empty: dict[str, Any]) -> Response:
    info: dict[str, Any] = {"rendered_template": prompts.text(ask)}
    if ask.images:
        info["image_count"] = len(ask.images)
    start = {"model": ask.model, "created_at": utc()}
    return answered({**start, **empty, "done": False, "_debug_info": info})
