"""What every route works with, and how it reads a request and writes a reply."""

import asyncio
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from vllama.server.lifecycle.pool import Pool
from vllama.server.relay import refusal
from vllama.server.relay.exchange import Reply
from vllama.server.relay.refusal import Form, Refusal
from vllama.server.relay.written import JSON_UTF8, dump
from vllama.server.translation.models import Models
from vllama.server.web import packed
from vllama.settings import Settings

MAX_BODY_BYTES = 256 * 1024**2


@dataclass(frozen=True, slots=True)
class Service:
    """The running engines, the models here, and the environment."""

    pool: Pool
    models: Models
    settings: Settings
    max_body_bytes: int = MAX_BODY_BYTES

    async def body(self, request: Request) -> bytes:
        """The whole body, unpacked.

        Raises:
            Refusal: it is larger than allowed, packed or not, or cannot be unpacked.
        """
        packing = b""
        for name, value in request.scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self.max_body_bytes:
                raise Refusal(413, packed.TOO_LARGE, early=True)
            if name == b"content-encoding":
                packing = value
        body = await self._read(request)
        if packing and packed.is_packed(request.url.path, packing):
            return await asyncio.to_thread(packed.unpacked, body, self.max_body_bytes)
        return body

    async def _read(self, request: Request) -> bytes:
        pieces, size = [], 0
        goes_on = True
        while goes_on:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            piece, goes_on = message.get("body", b""), message.get("more_body", False)
            size += len(piece)
            if size > self.max_body_bytes:
                raise Refusal(413, packed.TOO_LARGE, early=True)
            pieces.append(piece)
        return b"".join(pieces)


def form_of(path: str) -> Form:
    """How errors are told on a path."""
    if path.startswith("/v1/messages"):
        return refusal.ANTHROPIC
    if path.startswith("/v1/responses"):
        return refusal.RESPONSES
    return refusal.OPENAI if path.startswith("/v1/") else refusal.NATIVE


def sent(reply: Reply) -> Response:
    """A reply as a response."""
    response = Response(reply.body, reply.status)
    response.raw_headers = [
        *reply.headers,
        (b"content-length", b"%d" % len(reply.body)),
    ]
    return response


def answered(document: object, status: int = 200, *, media_type: bytes = JSON_UTF8) -> Response:
    """A document as a response."""
    return sent(Reply(status, dump(document), [(b"content-type", media_type)]))


def nothing(status: int = 200) -> Response:
    """An empty body."""
    return sent(Reply(status, b""))
