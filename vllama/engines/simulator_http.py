"""A small HTTP/1.1 server for the simulator: one that can also misbehave on purpose."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httptools

REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 429: "Too Many Requests",
           500: "Internal Server Error", 503: "Service Unavailable"}  # fmt: skip


@dataclass(slots=True)
class Request:
    """One request, whole."""

    method: str = ""
    path: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes = b""

    def json(self) -> dict[str, Any]:
        """The body as an object; empty when there is none.

        Raises:
            ValueError: it is something else.
        """
        document = json.loads(self.raw) if self.raw.strip() else {}
        if not isinstance(document, dict):
            raise ValueError("the body is no JSON object")
        return document


class Answer:
    """The way back: whole at once, or begun and then written piece by piece."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.is_begun = False
        self.closes = False

    def send(self, status: int, document: object, headers: dict[str, str] | None = None) -> None:
        """A whole answer: JSON, or text as it is."""
        is_text = isinstance(document, str)
        body = str(document).encode() if is_text else json.dumps(document).encode()
        kind = "text/plain; version=0.0.4" if is_text else "application/json"
        fields = {"content-type": kind, "content-length": str(len(body)), **(headers or {})}
        self._transport.write(_head(status, fields) + body)
        self.is_begun = True

    def begin(self, kind: str) -> None:
        """Start a stream of that content type."""
        self._transport.write(_head(200, {"content-type": kind, "transfer-encoding": "chunked"}))
        self.is_begun = True

    def write(self, piece: bytes) -> None:
        """One piece, as one chunk and at once."""
        self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def end(self) -> None:
        """The stream is complete."""
        self._transport.write(b"0\r\n\r\n")

    def cut(self) -> None:
        """Hang up in the middle."""
        self._transport.abort()


Handler = Callable[[Request, Answer], Awaitable[None]]


class Connection(asyncio.Protocol):
    """One connection; its requests are answered one after the other."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._parser = httptools.HttpRequestParser(self)
        self._request = Request()
        self._queue: asyncio.Queue[Request] = asyncio.Queue()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to answer."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's form
        """The client has left: so does the work for it."""
        self._task.cancel()

    def data_received(self, data: bytes) -> None:
        """Feed the parser."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_url(self, url: bytes) -> None:
        """Of the parser."""
        self._request.path = url.decode()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of the parser."""
        self._request.headers[name.decode().lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """Of the parser."""
        self._request.raw += body

    def on_message_complete(self) -> None:
        """Of the parser."""
        self._request.method = self._parser.get_method().decode()
        self._queue.put_nowait(self._request)
        self._request = Request()

    async def _serve(self) -> None:
        while True:
            request = await self._queue.get()
            answer = Answer(self._transport)
            try:
                await self._handler(request, answer)
            except ValueError as error:
                if not answer.is_begun:
                    answer.send(400, {"error": {"message": str(error), "code": 400}})
            if answer.closes or request.headers.get("connection", "").lower() == "close":
                self._transport.close()
                return


async def serve(handler: Handler, host: str, port: int) -> asyncio.Server:
    """Listen; a busy port is an `OSError`."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: Connection(handler), host, port, backlog=1024)


def _head(status: int, fields: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def swallow(task: "asyncio.Task[None]") -> None:
    """Wait for a task that was cancelled."""
    with contextlib.suppress(asyncio.CancelledError):
        await task
