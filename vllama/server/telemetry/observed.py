"""The outermost middleware: a number for each request, a count, a line in the log, a span."""

import itertools
import secrets
import time
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vllama.server.relay.downlink import carry, sent_status
from vllama.server.relay.exchange import outward
from vllama.server.telemetry.metrics import Telemetry, log_request
from vllama.server.telemetry.tracing import Tracer, sent_context

HEADER = b"x-request-id"
LONGEST = 128
_PROCESS = secrets.token_hex(4).encode()
_numbers = itertools.count(secrets.randbits(32))


class Observed:
    """Every answer carries the request's id: the client's own, if it sent one."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        telemetry: Telemetry,
        routes: Collection[str],
        tracer: Tracer,
        logs: bool = False,
    ) -> None:
        self._app = app
        self._telemetry = telemetry
        self._routes = frozenset(routes)
        self._tracer = tracer
        self._logs = logs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve and tell."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        span = self._tracer.begin(scope["method"], scope["path"], sent_context(scope["headers"]))
        outward.set(span.context)
        began_s = time.monotonic()
        number = _id(scope)
        carry(scope, [(HEADER, number)])
        status = 0

        async def numbered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (HEADER, number)]
            await send(message)

        try:
            await self._app(scope, receive, numbered)
        finally:
            # None at all: the client left before there was one.
            status = status or sent_status(scope) or 499
            path = scope["path"]
            # A path that is not ours is the client's to choose: it must not fill our memory.
            route = path if path in self._routes else "other"
            self._telemetry.answered_http(route, scope["method"], status)
            facts = {
                "request_id": number.decode("latin-1"), "method": scope["method"],
                "path": path, "status": status, "client": (scope.get("client") or [""])[0],
                "seconds": round(time.monotonic() - began_s, 6),
            }  # fmt: skip
            if self._logs:
                log_request(facts)
            span.end(facts)


def _id(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == HEADER and 0 < len(value) <= LONGEST and value.isascii() and b"\r" not in value:
            return bytes(value)
    return b"%b%08x" % (_PROCESS, next(_numbers) & 0xFFFFFFFF)
