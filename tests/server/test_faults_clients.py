"""Faults of clients: too many, too slow, half gone, vanished. What they cost the others."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.server.fakes import FakeEngine, Shop, silent, standing_still, until, upstream
from tests.server.faults import Outages, Simulated, leaves, nothing_left, served_again
from tests.server.running import chat, serving
from tests.server.test_relay import CHUNKED, Client, chunk, relaying
from vllama.server.lifecycle.pool import BUSY
from vllama.server.web import serving as listening
from vllama.settings import Settings

QUEUE = 512  # OLLAMA_MAX_QUEUE when nobody sets it
EXTRA = 24
TCP_REPAIR = 19


def address(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


def posted(document: dict[str, object]) -> bytes:
    body = json.dumps(document).encode()
    head = b"POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


async def test_of_more_requests_than_may_wait_for_a_load_only_the_last_are_sent_away(
    simulated: Simulated, outages: Outages
) -> None:
    words = simulated.words(fault_start_s=0.1)
    async with serving(*words, settings=simulated.settings) as running:
        request = posted(chat(simulated.name, 1, stream=False))

        async def ask() -> tuple[int, dict[str, str], bytes]:
            client = await Client.to(address(running.url))
            client.writer.write(request)
            status, headers = await client.head()
            body = await client.reader.readexactly(int(headers["content-length"]))
            client.leave()
            return status, headers, body

        first = asyncio.ensure_future(ask())
        await until(lambda: bool(leaves(running)))
        engine = running.engine
        # It loads until all have come: how fast that is depends on the machine.
        engine.suspend()
        asking = [first, *(asyncio.ensure_future(ask()) for _ in range(QUEUE + EXTRA - 1))]
        await until(lambda: sum(task.done() for task in asking) >= EXTRA)
        refused = [task.result() for task in asking if task.done()]
        async with outages.after(f"{QUEUE} requests wait for a load, until all are answered"):
            engine.resume()
            answers = await asyncio.gather(*asking)
        assert len(refused) == EXTRA
        for status, headers, body in refused:
            assert (status, json.loads(body)) == (503, {"error": BUSY})
            assert int(headers["retry-after"]) >= 1
        assert [status for status, _, _ in answers].count(200) == QUEUE
        async with nothing_left(running, simulated.name):
            pass


class Flood:
    """An engine that others run: it says as much as is taken, as fast as it is taken."""

    pieces = 1500
    word = "w" * 16_384

    def __init__(self) -> None:
        self.written = 0

    async def __call__(
        self, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if not body:
            writer.write(sized({"data": [{"id": "m"}]}))
            return
        request = json.loads(body)
        if not request.get("stream"):
            writer.write(ANSWER)
            return
        writer.write(CHUNKED.replace(b"\r\n\r\n", b"\r\ncontent-type: text/event-stream\r\n\r\n"))
        for _ in range(self.pieces):
            writer.write(event({"content": self.word}))
            await writer.drain()
            self.written += 1
        writer.write(event({}, "stop") + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


def event(delta: dict[str, str], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    said = {"id": "1", "object": "chat.completion.chunk", "choices": [choice]}
    return chunk(b"data: %b\n\n" % json.dumps(said).encode())


def sized(document: object) -> bytes:
    body = json.dumps(document).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


CHOICE = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
ANSWER = sized({"id": "1", "object": "chat.completion", "choices": [CHOICE]})


async def test_a_slow_reader_costs_neither_memory_nor_the_others(settings: Settings) -> None:
    flood = Flood()
    async with (
        upstream(flood) as url,
        serving("--attach", f"m={url}", "--preload", settings=settings) as running,
        nothing_left(running, "m"),
    ):
        process = psutil.Process(running.process.pid)
        resident = process.memory_info().rss
        with socket.socket() as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            raw.connect(address(running.url))
            raw.setblocking(False)
            slow = Client(*await asyncio.open_connection(sock=raw, limit=65_536))
            slow.writer.write(posted(chat("m", flood.pieces)))
            await slow.head()
            await until(standing_still(lambda: flood.written))
            assert 0 < flood.written < flood.pieces
            await served_again(running, "m")
            assert process.memory_info().rss - resident < len(flood.word) * flood.pieces / 3
            text = b"".join([piece async for piece in pieces(slow)])
            slow.leave()
        said = [json.loads(line) for line in text.splitlines()]
        assert sum(len(line["message"]["content"]) for line in said) == flood.pieces * len(
            flood.word
        )
        assert said[-1]["done"] is True


async def pieces(client: Client) -> AsyncIterator[bytes]:
    while piece := await client.chunk():
        yield piece


@pytest.mark.llamacpp
async def test_a_client_that_closes_its_half_is_taken_to_have_left(
    toy: Path, settings: Settings
) -> None:
    async with (
        serving(str(toy), "--preload", settings=settings) as running,
        nothing_left(running, toy.name),
    ):
        with socket.create_connection(address(running.url)) as raw:
            raw.sendall(posted(chat(toy.name, 3000)))
            assert await asyncio.to_thread(raw.recv, 100)
            raw.shutdown(socket.SHUT_WR)
            raw.settimeout(120)
            while await asyncio.to_thread(raw.recv, 65536):
                pass
        await served_again(running, toy.name)


@contextmanager
def soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A client is taken to be gone after the shortest time that the kernel knows."""
    quick = {
        "TCP_USER_TIMEOUT": 1000, "TCP_KEEPIDLE": 1, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 1,
    }  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(listening, "VANISHED", quick)
        yield


async def test_a_client_that_never_reads_again_gives_its_engine_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aborted = asyncio.Event()

    async def endless(
        body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            writer.write(CHUNKED)
            while True:
                writer.write(chunk(bytes(65_536)))
                await writer.drain()
        finally:
            aborted.set()

    with soon(monkeypatch):
        async with relaying(Shop(FakeEngine(endless)), direct=True) as where:
            with socket.create_connection(where) as raw:
                raw.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
                await asyncio.wait_for(aborted.wait(), 120)


async def test_a_client_that_vanishes_without_a_word_leaves_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def mute(body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        try:
            await silent(body, reader, writer)
        finally:
            left.set()

    with soon(monkeypatch):
        async with relaying(Shop(FakeEngine(mute)), direct=True) as where:
            raw = socket.create_connection(where)
            raw.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
            await asyncio.wait_for(asked.wait(), 120)
            try:
                # A connection under repair is closed without a word to the other side.
                raw.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
            except OSError as error:
                pytest.skip(f"only an administrator of Linux can make a client vanish: {error}")
            raw.close()
            await asyncio.wait_for(left.wait(), 120)
