"""Anthropic's routes: messages, and counting their tokens."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from vllama.server.anthropic import requests as anthropic_requests
from vllama.server.anthropic.requests import MESSAGES
from vllama.server.anthropic.voice import MessageVoice
from vllama.server.lifecycle.pool import Pool
from vllama.server.ollama import requests as ollama_requests
from vllama.server.relay import relay
from vllama.server.relay.written import JSON
from vllama.server.translation import planning
from vllama.server.translation.ask import Ask
from vllama.server.translation.generation import Generation
from vllama.server.web.schema import body_of
from vllama.server.web.service import Service, answered


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["anthropic"])

    @routes.post("/v1/messages", openapi_extra=body_of(MESSAGES))
    async def messages(request: Request) -> Response:
        found = ollama_requests.fields(await service.body(request), MESSAGES, empty="EOF")
        ask = await _asked(service, found, counts=False)
        voice = MessageVoice(found["model"], _estimate(ask))
        return relay.answer(request, service.pool, Generation(ask, voice))

    @routes.post("/v1/messages/count_tokens", openapi_extra=body_of(MESSAGES))
    async def count_tokens(request: Request) -> Response:
        found = ollama_requests.fields(await service.body(request), MESSAGES, empty="EOF")
        ask = await _asked(service, found, counts=True)
        counted = await relay.connected(request, _count(ask, service.pool))
        return answered({"input_tokens": counted}, media_type=JSON)

    return routes


async def _asked(service: Service, found: dict[str, Any], *, counts: bool) -> Ask:
    messages = anthropic_requests.check(found, counts=counts)
    card = await service.models.card(found["model"])
    return anthropic_requests.ask(found, messages, service.models.key(found["model"]), card)


async def _count(ask: Ask, pool: Pool) -> int:
    async with pool.lease(ask.key) as lease:
        return await planning.count(ask, lease)


def _estimate(ask: Ask) -> int:
    """Before the engine has counted: four characters a token."""
    characters = sum(len(str(m.get("content") or "")) for m in ask.messages)
    return -(-characters // 4)
