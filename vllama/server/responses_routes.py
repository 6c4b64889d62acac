"""OpenAI's Responses route: stateless, as Ollama's."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from vllama.server import ollama_requests, relay, responses_requests
from vllama.server.generation import Generation
from vllama.server.openai_wire import RESPONSES
from vllama.server.pieces import Piece, Tally
from vllama.server.refusal import Refusal
from vllama.server.responses_voice import ResponseVoice
from vllama.server.schema import body_of
from vllama.server.service import Service, sent


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
