"""The application: all routes, the guard before them, and how what they raise is told."""

from collections.abc import Iterable

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from vllama import __version__
from vllama.errors import VllamaError
from vllama.server.anthropic import routes as anthropic_routes
from vllama.server.lifecycle.catalogue import Catalogue
from vllama.server.lifecycle.pool import Pool
from vllama.server.ollama import embed_routes, extra_routes, library_routes
from vllama.server.ollama import routes as ollama_routes
from vllama.server.openai import responses_routes
from vllama.server.openai import routes as openai_routes
from vllama.server.relay import refusal
from vllama.server.relay.exchange import Reply
from vllama.server.relay.relay import ClientLeft
from vllama.server.relay.written import PLAIN
from vllama.server.translation.models import Models
from vllama.server.web import plain_routes
from vllama.server.web.guard import Guard
from vllama.server.web.hot import Hot
from vllama.server.web.service import MAX_BODY_BYTES, Service, form_of, sent
from vllama.settings import Settings

ROUTES = (
    plain_routes,
    ollama_routes,
    embed_routes,
    library_routes,
    openai_routes,
    responses_routes,
    anthropic_routes,
    extra_routes,
)
# Routes that take nothing but the request, and are asked all the time.
HOT = frozenset(
    {
        "/api/chat",
        "/api/generate",
        "/api/embed",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/messages",
        "/v1/responses",
    }
)


class App(FastAPI):
    """FastAPI behind a front of our own: the guard, and the short way to the hot routes.

    What FastAPI and Starlette wrap around every request is left to the routes that need it.
    """

    def __init__(self) -> None:
        super().__init__(title="vllama", version=__version__, redirect_slashes=False)
        self._front: ASGIApp = super().__call__

    def put_in_front(self, front: ASGIApp) -> None:
        """`front` takes every request, and hands on to `behind` what is not for it."""
        self._front = front

    async def behind(self, scope: Scope, receive: Receive, send: Send) -> None:
        """All routes, as FastAPI serves them."""
        await super().__call__(scope, receive, send)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await self._front(scope, receive, send)


def create_app(
    pool: Pool,
    catalogue: Catalogue,
    settings: Settings,
    *,
    api_keys: Iterable[str] = frozenset(),
    max_body_bytes: int | None = None,
) -> App:
    """The HTTP face of `pool`. It neither opens nor closes it."""
    app = App()
    service = Service(pool, Models(catalogue, settings), settings, max_body_bytes or MAX_BODY_BYTES)
    for routes in ROUTES:
        app.include_router(routes.router(service))
    app.add_exception_handler(VllamaError, _told)
    app.add_exception_handler(HTTPException, _unrouted)
    app.add_exception_handler(ClientLeft, _left)
    hot = {
        route.path: route.endpoint
        for route in app.router.routes
        if isinstance(route, Route) and route.path in HOT
    }
    app.put_in_front(
        Guard(
            Hot(app.behind, endpoints=hot, told=_told),
            bound_to=settings.address.host,
            origins=settings.origins,
            keys=tuple(api_keys),
            allow=lambda path: allowed(app, path),
        )
    )
    return app


def allowed(app: App, path: str) -> list[str]:
    """The methods that a path knows, as Ollama lists them; empty for an unknown path."""
    found: list[str] = []
    scope = {"type": "http", "path": path, "method": "", "root_path": "", "headers": []}
    for route in app.router.routes:
        if isinstance(route, Route) and route.matches(scope)[0] != Match.NONE:
            found += sorted(route.methods or (), reverse=True)
    return list(dict.fromkeys(found))


async def _told(request: Request, error: Exception) -> Response:
    if not isinstance(error, VllamaError):
        raise error
    return sent(refusal.failed(error, form_of(request.url.path)))


async def _unrouted(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == 404:
        return _plain(404, b"404 page not found")
    if error.status_code == 405:
        methods = ", ".join(allowed(request.app, request.url.path)).encode()
        return _plain(405, b"405 method not allowed", [(b"allow", methods)])
    return sent(form_of(request.url.path).reply(error.status_code, str(error.detail)))


async def _left(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)


def _plain(status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> Response:
    return sent(Reply(status, body, [(b"content-type", PLAIN), *headers]))
