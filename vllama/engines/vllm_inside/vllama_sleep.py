"""A gate in front of a vLLM in development mode: of its routes, those that vllama calls.

Given to vLLM by name with `--middleware vllama_sleep.Gate`.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = frozenset(
    {"/health", "/metrics", "/version", "/tokenize", "/detokenize", "/pooling", "/classify",
     "/score", "/rerank", "/v2/rerank", "/sleep", "/wake_up", "/is_sleeping"}
)  # fmt: skip


class Gate:
    """ASGI middleware: 404 for every other path than those of OpenAI's API and of OPEN."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        path = str(scope.get("path", ""))
        if scope["type"] == "lifespan" or path in OPEN or path.startswith("/v1/"):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            head = [(b"content-type", b"text/plain"), (b"content-length", b"9")]
            await send({"type": "http.response.start", "status": 404, "headers": head})
            await send({"type": "http.response.body", "body": b"Not Found"})
