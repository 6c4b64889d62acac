"""The short way to the routes that work: a look in a table instead of a walk through all routes.

FastAPI knows these routes too, for the OpenAPI page and every other method; what it does for
each request, and what they do not use, is left out here.
"""

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from vllama.errors import VllamaError
from vllama.server.relay.relay import ClientLeft

Endpoint = Callable[[Request], Awaitable[Response]]
Told = Callable[[Request, Exception], Awaitable[Response]]


class Hot:
    """Middleware: `endpoints` by path for POST; `told` makes responses of what they raise."""

    def __init__(self, app: ASGIApp, *, endpoints: Mapping[str, Endpoint], told: Told) -> None:
        self._app = app
        self._endpoints = dict(endpoints)
        self._told = told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a hot route, hand on the rest."""
        endpoint = None
        if scope["type"] == "http" and scope["method"] == "POST":
            endpoint = self._endpoints.get(scope["path"])
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            response = await endpoint(request)
        except VllamaError as error:
            response = await self._told(request, error)
        except ClientLeft:
            return
        await response(scope, receive, send)
