"""OpenAI's Responses route: stateless, as Ollama's."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from vllama.server.ollama import requests as ollama_requests
from vllama.server.openai import responses_requests
from vllama.server.openai.responses_voice import ResponseVoice
from vllama.server.openai.wire import RESPONSES
from vllama.server.relay import relay
from vllama.server.relay.refusal import Refusal
from vllama.server.translation.generation import Generation
from vllama.server.translation.pieces import Piece, Tally
from vllama.server.web.schema import body_of
from vllama.server.web.service import Service, sent


def router(service: Service) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["openai"])

    @routes.post("/v1/responses", openapi_extra=body_of(RESPONSES))
    async def responses(request: Request) -> Response:
        found = ollama_requests.fields(await service.body(request), RESPONSES, empty="EOF")
        messages = responses_requests.check(found)
        name = found.get("model", "")
        if not name.strip():
            raise Refusal(400, "model is required")
        card = await service.models.card(name)
        key = service.models.key(name)
        ask = responses_requests.ask(found, messages, key, card)
        voice = ResponseVoice(found)
        if not messages:
            await relay.connected(request, service.pool.preload(key))
            return sent(voice.whole([Piece()], Tally()))
        return relay.answer(request, service.pool, Generation(ask, voice))

    return routes
