"""The relay: what reaches the client, whatever the engine and the client do."""

import asyncio
import gc
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.server import ServerState

from tests.server.fakes import FakeEngine, Handler, Shop, standing_still, until
from vllama.errors import VllamaError
from vllama.server.lifecycle.pool import Pool
from vllama.server.lifecycle.runner import Lease
from vllama.server.relay import relay
from vllama.server.relay.downlink import EXTENSION, Downlink
from vllama.server.relay.exchange import Call, Reply
from vllama.server.web.serving import Server, listen
from vllama.uplink import Headers, Uplink

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


# For what must happen: a busy machine may take its time.
DEADLINE_S = 120


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Echo:
    """The simplest exchange: bytes as they are, errors in brackets."""

    media_type = "text/plain"
    keep_alive_s: float | None = None
    affinity = b""
    has_enough = False

    def __init__(self, body: bytes) -> None:
        asked = json.loads(body)
        self.model = asked.get("model", "m")
        self.streams = asked.get("stream", True)
        self.headers: Headers = []

    async def prepare(self, lease: Lease) -> None:
        pass

    def call(self, lease: Lease) -> Call:
        return Call(b"/v1/completions", b"{}")

    def feed(self, data: bytes) -> bytes:
        return data

    def end(self) -> bytes:
        return b"[end]"

    def broken(self, error: VllamaError) -> bytes:
        return f"[{error.message}]".encode()

    def whole(self, reply: Reply) -> Reply:
        return Reply(200, b"whole:" + reply.body)

    def refused(self, reply: Reply) -> Reply:
        return Reply(reply.status, b"refused:" + reply.body)

    def failed(self, error: VllamaError) -> Reply:
        return Reply(500, f"failed:{error.message}".encode())


def without_extension(app: ASGIApp) -> ASGIApp:
    """As on a server that lends no transport: everything goes through ASGI messages."""

    async def plain(scope: Scope, receive: Receive, send: Send) -> None:
        scope.get("extensions", {}).pop(EXTENSION, None)
        await app(scope, receive, send)

    return plain


@asynccontextmanager
async def relaying(shop: Shop, *, direct: bool) -> AsyncIterator[tuple[str, int]]:
    pool = Pool(shop)

    async def route(request: Request) -> Response:
        return relay.answer(request, pool, Echo(await request.body()))

    app: ASGIApp = Starlette(routes=[Route("/", route, methods=["POST"])])
    ready = asyncio.Event()
    listener = listen("127.0.0.1", 0)
    server = Server(app if direct else without_extension(app), drain_s=5, ready=ready.set)
    serving = asyncio.create_task(server.serve([listener]))
    await ready.wait()
    try:
        yield listener.getsockname()
    finally:
        server.stop()
        await asyncio.wait_for(serving, DEADLINE_S)
        await pool.close()


@pytest.fixture(params=[True, False], ids=["direct", "asgi"])
def direct(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


class Client:
    """A raw HTTP client: it sees exactly what is on the wire."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, address: tuple[str, int]) -> "Client":
        return cls(*await asyncio.open_connection(*address))

    def ask(self, version: str = "1.1", **body: object) -> None:
        raw = json.dumps(body).encode()
        self.writer.write(
            b"POST / HTTP/%b\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b"
            % (version.encode(), len(raw), raw)
        )

    async def head(self) -> tuple[int, dict[str, str]]:
        raw = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), DEADLINE_S)).decode()
        lines = raw.split("\r\n")
        pairs = (line.partition(": ") for line in lines[1:] if line)
        return int(lines[0].split()[1]), {k.lower(): v for k, _, v in pairs}

    async def chunk(self) -> bytes:
        size = int(await asyncio.wait_for(self.reader.readline(), DEADLINE_S), 16)
        return (await asyncio.wait_for(self.reader.readexactly(size + 2), DEADLINE_S))[:-2]

    async def answer(self) -> tuple[int, bytes]:
        status, headers = await self.head()
        if "content-length" in headers:
            return status, await self.reader.readexactly(int(headers["content-length"]))
        return status, await self.rest()

    async def rest(self) -> bytes:
        """All chunks to the end."""
        pieces = []
        while piece := await self.chunk():
            pieces.append(piece)
        return b"".join(pieces)

    def leave(self) -> None:
        self.writer.transport.abort()


async def ask(shop: Shop, *, direct: bool, stream: bool = True) -> tuple[int, bytes]:
    async with relaying(shop, direct=direct) as address:
        client = await Client.to(address)
        client.ask(stream=stream)
        try:
            return await client.answer()
        finally:
            client.leave()


def saying(*writes: bytes) -> Handler:
    async def handler(
        body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        for each in writes:
            writer.write(each)
            await writer.drain()

    return handler


def in_turn(*handlers: Handler) -> Handler:
    """Each request is for the next handler, the last stays."""
    left = list(handlers)

    async def handler(
        body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(body, reader, writer)

    return handler


def stopping_short(*writes: bytes) -> Handler:
    async def handler(
        body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        for each in writes:
            writer.write(each)
            await writer.drain()
        writer.transport.abort()
        raise ConnectionResetError

    return handler


async def test_a_stream_arrives_whole_with_its_end(direct: bool) -> None:
    engine = FakeEngine(saying(CHUNKED, chunk(b"one "), chunk(b"two "), b"0\r\n\r\n"))
    assert await ask(Shop(engine), direct=direct) == (200, b"one two [end]")


async def test_an_answer_that_does_not_stream_is_translated_whole(direct: bool) -> None:
    engine = FakeEngine(saying(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"))
    assert await ask(Shop(engine), direct=direct, stream=False) == (200, b"whole:abc")


@pytest.mark.parametrize("stream", [True, False])
async def test_the_engines_refusal_keeps_its_status(direct: bool, stream: bool) -> None:
    engine = FakeEngine(saying(b"HTTP/1.1 400 Bad\r\ncontent-length: 4\r\n\r\nlong"))
    assert await ask(Shop(engine), direct=direct, stream=stream) == (400, b"refused:long")


async def test_each_flush_of_the_engine_reaches_the_client_at_once(direct: bool) -> None:
    step = asyncio.Event()

    async def handler(
        body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(CHUNKED)
        for word in (b"a", b"b", b"c"):
            writer.write(chunk(word))
            await step.wait()
            step.clear()
        writer.write(b"0\r\n\r\n")

    async with relaying(Shop(FakeEngine(handler)), direct=direct) as address:
        client = await Client.to(address)
        client.ask()
        await client.head()
        for word in (b"a", b"b", b"c"):
            assert await client.chunk() == word
            step.set()
        client.leave()


async def test_one_connection_takes_many_requests(direct: bool) -> None:
    engine = FakeEngine(saying(CHUNKED, chunk(b"x"), b"0\r\n\r\n"))
    async with relaying(Shop(engine), direct=direct) as address:
        client = await Client.to(address)
        for _ in range(3):
            client.ask()
            assert await client.answer() == (200, b"x[end]")
        client.leave()


async def test_requests_sent_ahead_are_answered_in_turn(direct: bool) -> None:
    engine = FakeEngine(saying(CHUNKED, chunk(b"one "), chunk(b"two "), b"0\r\n\r\n"))
    async with relaying(Shop(engine), direct=direct) as address:
        client = await Client.to(address)
        for _ in range(3):
            client.ask()
        for _ in range(3):
            assert await client.answer() == (200, b"one two [end]")
        client.leave()


async def test_a_request_that_is_sent_in_the_middle_of_an_answer_waits_for_its_end(
    direct: bool,
) -> None:
    step = asyncio.Event()

    async def handler(
        body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(CHUNKED + chunk(b"one "))
        await step.wait()
        writer.write(chunk(b"two ") + b"0\r\n\r\n")

    async with relaying(Shop(FakeEngine(handler)), direct=direct) as address:
        client = await Client.to(address)
        client.ask()
        await client.head()
        assert await client.chunk() == b"one "
        client.ask()
        step.set()
        assert await client.rest() == b"two [end]"
        assert await client.answer() == (200, b"one two [end]")
        client.leave()


async def test_a_client_that_speaks_http_1_0_gets_its_answer_without_chunks(direct: bool) -> None:
    engine = FakeEngine(saying(CHUNKED, chunk(b"x"), b"0\r\n\r\n"))
    async with relaying(Shop(engine), direct=direct) as address:
        client = await Client.to(address)
        client.ask("1.0")
        status, _ = await client.head()
        assert status == 200
        assert b"x" in await asyncio.wait_for(client.reader.read(), DEADLINE_S)


@pytest.mark.parametrize("stream", [True, False])
async def test_an_engine_that_dies_before_its_first_word_is_replaced_and_asked_again(
    direct: bool, stream: bool
) -> None:
    engine = FakeEngine()
    good = saying(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nagain")

    async def dies(body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        engine.lives[-1].kill()
        await reader.read()

    engine.handler = in_turn(dies, good)
    status, body = await ask(Shop(engine), direct=direct, stream=stream)
    assert (status, body) == (200, b"again[end]" if stream else b"whole:again")
    assert len(engine.lives) == 2


@pytest.mark.parametrize("stream", [True, False])
async def test_an_engine_that_dies_twice_is_told_to_the_client(direct: bool, stream: bool) -> None:
    engine = FakeEngine()

    async def dies(body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        engine.lives[-1].kill("Out of memory")
        await reader.read()

    engine.handler = dies
    answer = await ask(Shop(engine), direct=direct, stream=stream)
    assert answer == (500, b"failed:Out of memory")


async def test_an_engine_that_dies_in_mid_stream_ends_it_with_the_reason(direct: bool) -> None:
    engine = FakeEngine()

    async def handler(
        body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(CHUNKED + chunk(b"some"))
        await writer.drain()
        await until(lambda: told.is_set())
        engine.lives[-1].kill("Bus error")
        await reader.read()

    told = asyncio.Event()
    engine.handler = handler
    async with relaying(Shop(engine), direct=direct) as address:
        client = await Client.to(address)
        client.ask()
        await client.head()
        assert await client.chunk() == b"some"
        told.set()
        assert await client.chunk() == b"[Bus error]"
        assert await client.chunk() == b""
        client.leave()


async def test_a_stream_cut_short_by_a_living_engine_is_not_passed_off_as_whole(
    direct: bool,
) -> None:
    engine = FakeEngine(stopping_short(CHUNKED, chunk(b"some")))
    status, body = await ask(Shop(engine), direct=direct)
    assert status == 200
    assert body.startswith(b"some[the engine broke off")


async def test_a_stale_kept_connection_is_not_the_clients_trouble(direct: bool) -> None:
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    asked = 0

    async def handler(
        body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        nonlocal asked
        asked += 1
        if asked == 2:  # closes as the next request arrives
            raise ConnectionResetError
        writer.write(whole)

    async with relaying(Shop(FakeEngine(handler)), direct=direct) as address:
        client = await Client.to(address)
        for _ in range(3):
            client.ask()
            assert await client.answer() == (200, b"ok[end]")
        client.leave()


def noticing(before: bytes) -> tuple[Handler, asyncio.Event, asyncio.Event]:
    """An engine that says `before`, then nothing, and notices when it is hung up on."""
    asked, gone = asyncio.Event(), asyncio.Event()

    async def handler(
        body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(before)
        asked.set()
        try:
            await reader.read()
        finally:
            gone.set()

    return handler, asked, gone


@pytest.mark.parametrize(
    ("stream", "before"),
    [(True, b""), (True, CHUNKED + chunk(b"some")), (False, b"")],
    ids=["prefill", "decode", "non-stream"],
)
async def test_a_client_that_leaves_stops_the_engines_work(
    direct: bool, stream: bool, before: bytes
) -> None:
    handler, asked, gone = noticing(before)
    async with relaying(Shop(FakeEngine(handler)), direct=direct) as address:
        client = await Client.to(address)
        client.ask(stream=stream)
        await asyncio.wait_for(asked.wait(), DEADLINE_S)
        if before:
            await client.head()
            await client.chunk()
        client.leave()
        await asyncio.wait_for(gone.wait(), DEADLINE_S)


def test_a_piece_for_a_client_that_has_just_gone_is_dropped() -> None:
    """The engine's next piece may come before the request's own task knows; uvloop would raise."""

    async def nobody(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("nothing is asked")

    async def write_to_nobody() -> None:
        config = Config(nobody, lifespan="off", log_config=None)
        config.load()
        down = Downlink(config=config, server_state=ServerState(), app_state={})
        server = await asyncio.get_running_loop().create_server(lambda: down, "127.0.0.1", 0)
        client = await Client.to(server.sockets[0].getsockname())
        await until(lambda: down.transport is not None)
        gone = asyncio.Event()
        down.watch(gone.set)
        down.write_chunk(b"word")
        assert await client.chunk() == b"word"
        client.leave()
        await asyncio.wait_for(gone.wait(), DEADLINE_S)
        down.write_chunk(b"lost")
        assert down.is_lost
        server.close()

    uvloop.run(write_to_nobody())


async def test_a_client_that_leaves_in_mid_stream_leaves_nothing_to_the_collector() -> None:
    step = asyncio.Event()

    async def handler(
        body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(CHUNKED + chunk(b"one "))
        await step.wait()

    def left() -> int:
        return sum(isinstance(each, Downlink | Uplink) for each in gc.get_objects())

    async with relaying(Shop(FakeEngine(handler)), direct=True) as address:
        gc.collect()
        before = left()
        gc.disable()
        try:
            client = await Client.to(address)
            client.ask()
            await client.head()
            assert left() > before
            client.leave()
            await until(lambda: left() == before)
        finally:
            gc.enable()
            step.set()


async def test_a_client_that_leaves_while_the_model_loads_is_forgotten(direct: bool) -> None:
    engine = FakeEngine(saying(CHUNKED, chunk(b"x"), b"0\r\n\r\n"), may_start=asyncio.Event())
    assert engine.may_start is not None
    async with relaying(Shop(engine), direct=direct) as address:
        client, other = await Client.to(address), await Client.to(address)
        client.ask()
        other.ask()
        await until(lambda: engine.starting == 1)
        client.leave()
        engine.may_start.set()
        assert await other.answer() == (200, b"x[end]")
        other.leave()


async def test_a_client_that_leaves_the_queue_never_reaches_the_engine(direct: bool) -> None:
    handler, _, gone = noticing(b"")
    asked = 0

    async def counting(
        body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        nonlocal asked
        asked += 1
        await handler(body, reader, writer)

    shop = Shop(FakeEngine(counting), options={"n_parallel": 1})
    async with relaying(shop, direct=direct) as address:
        clients = [await Client.to(address) for _ in range(5)]
        for client in clients:
            client.ask()
        await until(lambda: asked == 3)
        for client in clients[3:]:
            client.leave()
        for client in clients[:3]:
            client.leave()
        await asyncio.wait_for(gone.wait(), DEADLINE_S)
    assert asked == 3


async def test_a_slow_reader_slows_its_own_engine_stream_and_loses_nothing(direct: bool) -> None:
    piece, pieces = bytes(64 * 1024), 400
    written = 0

    async def handler(
        body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        nonlocal written
        writer.write(CHUNKED)
        for _ in range(pieces):
            writer.write(chunk(piece))
            await writer.drain()
            written += 1
        writer.write(b"0\r\n\r\n")

    async with relaying(Shop(FakeEngine(handler)), direct=direct) as address:
        raw = socket.create_connection(address)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        raw.setblocking(False)
        client = Client(*await asyncio.open_connection(sock=raw, limit=65536))
        client.ask()
        await client.head()
        await until(standing_still(lambda: written))
        assert written < pieces
        quick = await Client.to(address)
        quick.ask()
        status, body = await quick.answer()
        assert (status, len(body)) == (200, len(piece) * pieces + len(b"[end]"))
        quick.leave()
        total = 0
        while got := await client.chunk():
            total += len(got)
        assert total == len(piece) * pieces + len(b"[end]")
        client.leave()


async def test_what_the_exchange_cannot_read_ends_the_stream_with_an_error(direct: bool) -> None:
    class Fussy(Echo):
        def feed(self, data: bytes) -> bytes:
            if b"bad" in data:
                raise ValueError("bad token")
            return data

    engine = FakeEngine(saying(CHUNKED, chunk(b"good"), chunk(b"bad"), b"0\r\n\r\n"))
    pool = Pool(Shop(engine))
    sent: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        await asyncio.Event().wait()
        return {}

    async def send(message: object) -> None:
        assert isinstance(message, dict)
        sent.append(message)

    scope: Scope = {"type": "http", "method": "POST", "http_version": "1.1"}
    request = Request(scope)
    await relay.answer(request, pool, Fussy(b"{}"))(scope, receive, send)
    body = b"".join(bytes(m.get("body", b"")) for m in sent)  # type: ignore[call-overload]
    assert b"could not be read" in body
    await pool.close()


async def test_a_side_call_gives_any_status_and_fails_when_the_engine_is_gone() -> None:
    pool = Pool(Shop(FakeEngine(saying(b"HTTP/1.1 404 No\r\ncontent-length: 2\r\n\r\nno"))))
    async with pool.lease("m") as lease:
        reply = await relay.fetch(lease, Call(b"/tokenize", b"{}"))
        assert (reply.status, reply.body) == (404, b"no")
    await pool.close()
    pool = Pool(Shop(FakeEngine(stopping_short())))
    async with pool.lease("m") as lease:
        with pytest.raises(VllamaError, match="broke off"):
            await relay.fetch(lease, Call(b"/tokenize", b"{}"))
    await pool.close()


async def test_connected_cancels_the_work_of_a_client_that_leaves() -> None:
    cancelled = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def receive() -> dict[str, object]:
        return {"type": "http.disconnect"}

    request = Request({"type": "http"}, receive)
    with pytest.raises(relay.ClientLeft):
        await relay.connected(request, work())
    assert cancelled.is_set()


def test_what_is_written_leaves_at_once() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        listener.setblocking(True)
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
