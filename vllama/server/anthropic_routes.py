"""Anthropic's routes: messages, and counting their tokens."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from vllama.server import anthropic_requests, ollama_requests, planning, relay
from vllama.server.anthropic_requests import MESSAGES
from vllama.server.anthropic_voice import MessageVoice
from vllama.server.ask import Ask
from vllama.server.generation import Generation
from vllama.server.pool import Pool
from vllama.server.schema import body_of
from vllama.server.service import Service, answered
from vllama.server.written import JSON


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
