"""A scripted HTTP server in this process: it answers as told, and knows what was in flight."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from vllama.bench.measurement import Measurement
from vllama.bench.rig import LiveSession
from vllama.bench.wire import USUAL, Client
from vllama.engines.engine import Api, Endpoint, Immortal

Body = dict[str, Any]


@dataclass
class Call:
    """One request, and the means to answer it."""

    path: str
    body: Body
    writer: asyncio.StreamWriter
    method: str = "POST"

    def head(self, status: int = 200, *headers: str) -> None:
        lines = [f"HTTP/1.1 {status} X", "transfer-encoding: chunked", *headers]
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())

    def piece(self, data: bytes) -> None:
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))

    def whole_text(self, text: str) -> None:
        self.head()
        self.piece(text.encode())
        self.end()

    def empty(self, status: int) -> None:
        self.writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n".encode())

    def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")

    def whole(self, document: object, status: int = 200, *headers: str) -> None:
        self.head(status, *headers)
        self.piece(json.dumps(document).encode())
        self.end()


Answer = Callable[[Call], Awaitable[None]]


@dataclass
class Scripted:
    """What happened."""

    url: str = ""
    calls: list[Call] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0

    stop_listening: Callable[[], None] = lambda: None
    _watchers: list[tuple[int, asyncio.Event]] = field(default_factory=list)

    def note(self, call: Call) -> None:
        self.calls.append(call)
        for count, event in self._watchers:
            if len(self.calls) >= count:
                event.set()

    async def reached(self, count: int) -> None:
        """Wait until `count` requests have come."""
        event = asyncio.Event()
        self._watchers.append((count, event))
        await event.wait()

    def endpoint(self, api: Api = "openai") -> Endpoint:
        return Endpoint(self.url, "m", "attached", Immortal(), api=api)

    @asynccontextmanager
    async def session(
        self, api: Api = "openai", client: Client = USUAL
    ) -> AsyncIterator[LiveSession]:
        session = LiveSession(self.endpoint(api), client)
        try:
            yield session
        finally:
            session.close()


@asynccontextmanager
async def scripted(answer: Answer) -> AsyncIterator[Scripted]:
    """Serve `answer` until the block is left."""
    state = Scripted()
    tasks: set[asyncio.Task[Any]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            tasks.add(task)
        try:
            while (call := await _read(reader, writer)) is not None:
                state.note(call)
                state.in_flight += 1
                state.most_in_flight = max(state.most_in_flight, state.in_flight)
                try:
                    await answer(call)
                    await writer.drain()
                finally:
                    state.in_flight -= 1
                if writer.is_closing():
                    return
        except (ConnectionError, asyncio.CancelledError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    state.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    state.stop_listening = server.close
    try:
        yield state
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Call | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    lines = head.decode().lower().split("\r\n")
    sizes = [line.partition(":")[2] for line in lines if line.startswith("content-length")]
    raw = await reader.readexactly(int(sizes[0])) if sizes else b"{}"
    is_json = raw[:1] in (b"{", b"[")
    method, path = head.decode().split()[:2]
    return Call(path, json.loads(raw) if is_json else {"raw": len(raw)}, writer, method)


def miscounts(shown: Measurement) -> list[str]:
    """What is suspect for its counts; lateness is this machine's, and no test's business."""
    return [reason for reason in shown.suspect if "tokens" in reason]


def words(body: Body) -> int:
    """The tokens of a request for a server in which every word is one."""
    prompt = body.get("prompt", body.get("input"))
    if prompt is None:
        prompt = body["messages"][-1]["content"]
    return len(prompt.split()) if isinstance(prompt, str) else len(prompt)


def event(delta: str | None, *, finish: str | None = None) -> bytes:
    """A chunk of a streamed completion."""
    choice = {"index": 0, "text": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def usage(prompt: int, output: int) -> bytes:
    counts = {"prompt_tokens": prompt, "completion_tokens": output}
    return b"data: " + json.dumps({"choices": [], "usage": counts}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


async def completes(call: Call, *, delays_s: Iterable[float] = ()) -> None:
    """A good OpenAI server: a word a token, streamed or not, `delays_s` before each."""
    if call.path in ("/tokenize", "/metrics"):
        call.whole({"error": "not here"}, 404)
        return
    prompt, wanted = words(call.body), int(call.body.get("max_tokens", 0))
    for delay_s in delays_s:
        await asyncio.sleep(delay_s)
    if not call.body.get("stream"):
        counts = {"prompt_tokens": prompt, "completion_tokens": wanted}
        choice = {"text": "x " * wanted, "finish_reason": "length"}
        call.whole({"choices": [choice], "usage": counts})
        return
    call.head()
    for _ in range(wanted):
        call.piece(event("x "))
        await asyncio.sleep(0)
    for last in (event("", finish="length"), usage(prompt, wanted), DONE):
        call.piece(last)
    call.end()


async def ollama(call: Call) -> None:
    """A good Ollama: a word a token."""
    if "options" not in call.body:
        return call.whole({"error": "not here"}, 404)
    wanted = int(call.body["options"]["num_predict"])
    last = {"done": True, "prompt_eval_count": words(call.body), "eval_count": wanted}
    if not call.body.get("stream"):
        return call.whole({"response": "x " * wanted} | last)
    call.head()
    for _ in range(wanted):
        call.piece(json.dumps({"response": "x ", "done": False}).encode() + b"\n")
    call.piece(json.dumps({"response": ""} | last).encode() + b"\n")
    return call.end()
