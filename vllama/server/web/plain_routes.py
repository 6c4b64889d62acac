"""Routes that need no model: is it there, which version, and what belongs to Ollama's cloud."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from vllama import __version__
from vllama.server.relay.exchange import Reply
from vllama.server.relay.refusal import Refusal
from vllama.server.web.service import Service, answered, sent

# Clients compare it with the first version that could do what they need.
OLLAMA_VERSION = "0.33.0"
_RUNNING = b"Ollama is running"


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["server"])

    @routes.get("/")
    @routes.head("/", include_in_schema=False)
    async def root() -> Response:
        return sent(Reply(200, _RUNNING, [(b"content-type", b"text/plain; charset=utf-8")]))

    @routes.get("/api/version")
    @routes.head("/api/version", include_in_schema=False)
    async def version() -> Response:
        return answered({"version": OLLAMA_VERSION})

    @routes.get("/api/status")
    async def status() -> Response:
        return answered({"cloud": {"disabled": True, "source": "env"}})

    @routes.get("/health")
    @routes.head("/health", include_in_schema=False)
    async def health() -> Response:
        loaded = [each.name for each in service.pool.loaded()]
        return answered({"status": "ok", "version": __version__, "loaded": loaded})

    _cloud(routes, service)
    return routes


def _cloud(routes: APIRouter, service: Service) -> None:
    """As an Ollama whose cloud is switched off."""

    @routes.post("/api/me")
    async def me() -> Response:
        raise Refusal(503, "account unavailable")

    @routes.post("/api/signout")
    async def sign_out() -> Response:
        raise Refusal(401, "you are not currently signed in")

    @routes.delete("/api/user/keys/{encoded_key}")
    async def delete_key(encoded_key: str) -> Response:  # noqa: ARG001
        raise Refusal(401, "you are not currently signed in")

    @routes.post("/api/experimental/web_search")
    async def web_search(request: Request) -> Response:
        await _some(service, request)
        raise Refusal(403, "ollama cloud is disabled: web search is unavailable")

    @routes.post("/api/experimental/web_fetch")
    async def web_fetch(request: Request) -> Response:
        await _some(service, request)
        raise Refusal(403, "ollama cloud is disabled: web fetch is unavailable")

    @routes.get("/api/experimental/model-recommendations")
    async def recommendations() -> Response:
        return answered({"recommendations": []})


async def _some(service: Service, request: Request) -> None:
    if not await service.body(request):
        raise Refusal(400, "missing request body")
