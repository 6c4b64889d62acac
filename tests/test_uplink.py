"""The callback client: answers arrive whole, in order, and broken ones say so."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import accumulate, pairwise

import pytest

from vllama.uplink import Headers, Uplink, UplinkClosed, UplinkPool

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Answer:
    """Collects one answer."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = []
        self.pieces: list[bytes] = []
        self.flushes = 0
        self.done: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def on_head(self, status: int, headers: Headers) -> None:
        self.status, self.headers = status, headers

    def on_body(self, piece: bytes) -> None:
        self.pieces.append(piece)

    def on_flush(self) -> None:
        self.flushes += 1

    def on_end(self, error: Exception | None) -> None:
        self.done.set_result(error)

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[UplinkPool]:
    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(guarded, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pool = UplinkPool(f"http://127.0.0.1:{port}/base")
    try:
        yield pool
    finally:
        pool.close()
        server.close()


async def ask(pool: UplinkPool, body: bytes = b"{}") -> Answer:
    answer = Answer()
    link = await pool.acquire()
    link.send(pool.request(b"POST", b"/path", body), answer)
    await answer.done
    return answer


def fixed(*answers: bytes, close: bool = False) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for each in answers:
            await reader.readuntil(b"{}")
            writer.write(each)
            await writer.drain()
        if not close:
            await reader.read()

    return handler


async def test_a_chunked_answer_arrives_whole_and_the_connection_is_kept() -> None:
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    async with serving(fixed(chunked, chunked)) as pool:
        first, second = await ask(pool), await ask(pool)
    assert (first.status, first.body, second.body) == (200, b"abc", b"abc")
    assert first.flushes == 1


async def test_the_request_carries_the_urls_path_and_a_length() -> None:
    seen = b""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen = await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with serving(handler) as pool:
        answer = await ask(pool)
    assert answer.status == 204
    assert seen.startswith(b"POST /base/path HTTP/1.1\r\n")
    assert b"content-length: 2\r\n" in seen


async def test_an_answer_framed_by_close_ends_well_when_the_peer_closes() -> None:
    async with serving(fixed(b"HTTP/1.1 200 OK\r\n\r\nall of it", close=True)) as pool:
        answer = await ask(pool)
    assert answer.body == b"all of it"
    assert answer.done.result() is None


async def test_an_answer_cut_short_is_an_error() -> None:
    cut = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this"
    async with serving(fixed(cut, close=True)) as pool:
        answer = await ask(pool)
    error = answer.done.result()
    assert isinstance(error, UplinkClosed)
    assert not error.untouched


async def test_a_kept_connection_closed_before_a_byte_may_be_sent_again() -> None:
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(whole)
        await reader.readuntil(b"{}")

    async with serving(once) as pool:
        assert (await ask(pool)).body == b"ok"
        error = (await ask(pool)).done.result()
        assert isinstance(error, UplinkClosed)
        assert error.untouched
        assert (await ask(pool)).body == b"ok"


async def test_what_is_not_http_is_an_error() -> None:
    async with serving(fixed(b"hello\r\n\r\n")) as pool:
        error = (await ask(pool)).done.result()
    assert isinstance(error, UplinkClosed)
    assert "malformed" in str(error)


async def test_an_aborted_request_closes_the_connection_and_says_nothing_more() -> None:
    gone = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome")
        await reader.read()
        gone.set()

    async with serving(handler) as pool:
        answer = Answer()
        link = await pool.acquire()
        link.send(pool.request(b"POST", b"/", b"{}"), answer)
        link.abort()
        await asyncio.wait_for(gone.wait(), 5)
    assert not answer.done.done()


async def test_a_paused_link_stops_the_sender_until_it_is_resumed() -> None:
    size = 64 * 1024 * 1024
    sent = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _ in range(64):
            writer.write(bytes(size // 64))
            await writer.drain()
        sent.set()

    class Pausing(Answer):
        def on_head(self, status: int, headers: Headers) -> None:
            super().on_head(status, headers)
            link.pause()

    async with serving(handler) as pool:
        answer = Pausing()
        link = await pool.acquire()
        link.send(pool.request(b"POST", b"/", b"{}"), answer)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(sent.wait(), 0.2)
        link.resume()
        await asyncio.wait_for(answer.done, 30)
    assert len(answer.body) == size


def test_only_http_urls_are_taken() -> None:
    with pytest.raises(ValueError, match="not an http URL"):
        UplinkPool("ftp://host")


class _Wire(asyncio.Transport):
    """A transport that takes what is written, until it is aborted."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


def read_in(*reads: bytes) -> tuple[Answer, Uplink]:
    """The answer that comes in these reads, after its head."""
    link = Uplink(UplinkPool("http://127.0.0.1:1"))
    link.connection_made(_Wire())
    answer = Answer()
    link.send(b"POST / HTTP/1.1\r\n\r\n", answer)
    for each in (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", *reads):
        link.data_received(each)
    return answer, link


@pytest.mark.parametrize("seed", range(60))
async def test_chunks_are_the_same_however_they_are_cut(seed: int) -> None:
    chance = random.Random(seed)
    # What looks like framing within a chunk, and chunks that come whole as most do.
    words = [b"\r\n", b"2\r\nab\r\n", b"0\r\n\r\n", b"f", b"\n", b"data: {}\n\n", b"x" * 300]
    bodies = [b"".join(chance.choices(words, k=chance.randint(1, 4))) for _ in range(40)]
    framed = [b"%x\r\n%b\r\n" % (len(body), body) for body in bodies]
    whole = b"".join((*framed, b"0\r\n\r\n"))
    ends = list(accumulate(map(len, framed)))
    cuts = {0, len(whole), *(end for end in ends if chance.random() < 0.7)}
    cuts.update(chance.choices(range(len(whole)), k=chance.randint(0, 12)))
    answer, link = read_in(*(whole[a:b] for a, b in pairwise(sorted(cuts))))
    assert answer.body == b"".join(bodies)
    assert answer.done.result() is None
    assert link.is_open


@pytest.mark.parametrize(
    ("reads", "said"),
    [
        # In the middle of a size: 14, of which the rest looks like a chunk of 4.
        ((b"3\r\nxyz\r\n1", b"4\r\nabcd\r\n", b"e" * 14 + b"\r\n"), b"xyzabcd\r\n" + b"e" * 14),
        # After a size: what follows is content, though it looks like a chunk.
        ((b"3\r\nxyz\r\n14\r\n", b"4\r\nabcd\r\n", b"e" * 11 + b"\r\n"),
         b"xyz4\r\nabcd\r\n" + b"e" * 11),
    ],
)  # fmt: skip
async def test_what_looks_like_a_chunk_between_others_is_none(
    reads: tuple[bytes, ...], said: bytes
) -> None:
    answer, _ = read_in(*reads, b"0\r\n\r\n")
    assert answer.body == said
    assert answer.done.result() is None


async def test_a_chunk_longer_than_it_says_is_malformed() -> None:
    answer, link = read_in(b"3\r\nxyz\r\n", b"4\r\nabcdXY")
    assert isinstance(answer.done.result(), UplinkClosed)
    assert not link.is_open
