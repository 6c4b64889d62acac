"""The load's own client and its stand-in: the same answers, however the bytes are cut."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise

import pytest

from tests.bench.serving import DONE, Call, completes, event, miscounts, scripted, usage
from vllama.bench import wire as wires
from vllama.bench.answers import read, read_events
from vllama.bench.measurement import INVALID, Run, Sample, summarize
from vllama.bench.rig import LiveSession
from vllama.bench.selftest import proven
from vllama.bench.wire import Choice, Client, wire
from vllama.bench.workload import Workload

LOAD = Workload("w", prompt_tokens=20, output_tokens=8, concurrency=3, requests=12)
CHOICES: tuple[Choice, ...] = ("raw", "httpx")
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENTS = (*[event("x ")] * 8, event("", finish="length"), usage(20, 8), DONE)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def one_by_one(size: int) -> Callable[[bytes], list[bytes]]:
    return lambda data: [data[i : i + size] for i in range(0, len(data), size)]


WHOLE = HEAD + b"".join(map(chunk, EVENTS)) + b"0\r\n\r\n"
LUMPED = HEAD + chunk(b"".join(EVENTS)) + b"0\r\n\r\n"
CUTS = {
    "as they are": [HEAD, *map(chunk, EVENTS), b"0\r\n\r\n"],
    "the end with the last": [HEAD, *map(chunk, EVENTS[:-1]), chunk(EVENTS[-1]) + b"0\r\n\r\n"],
    "all at once": [WHOLE],
    "in one chunk": [LUMPED],
    "by three bytes": one_by_one(3)(WHOLE),
    "by a hundred bytes": one_by_one(100)(WHOLE),
    "an end in two": [HEAD, *map(chunk, EVENTS), b"0\r\n", b"\r\n"],
    "an end in five": [HEAD, *map(chunk, EVENTS), *one_by_one(1)(b"0\r\n\r\n")],
    "with a trailer": [HEAD, *map(chunk, EVENTS), b"0\r\nx-took: 1\r\n\r\n"],
    "with an extension": [HEAD, *(chunk(e).replace(b"\r\n", b";a=b\r\n", 1) for e in EVENTS),
                          b"0\r\n\r\n"],
    "carriage returns": [HEAD, *(chunk(e.replace(b"\n", b"\r\n")) for e in EVENTS), b"0\r\n\r\n"],
    "split events": [HEAD, *map(chunk, one_by_one(17)(b"".join(EVENTS))), b"0\r\n\r\n"],
    "until the connection ends": [HEAD.replace(b"transfer-encoding: chunked\r\n", b""), *EVENTS],
}  # fmt: skip


@asynccontextmanager
async def writes(pieces: list[bytes], *, hangs_up: bool) -> AsyncIterator[str]:
    """A server that answers each request with these writes, one segment each."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                if hangs_up:
                    break
        except asyncio.IncompleteReadError:
            pass
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("cut", CUTS)
async def test_an_answer_reads_the_same_however_it_is_cut(cut: str, choice: Choice) -> None:
    async with writes(CUTS[cut], hangs_up=cut.startswith("until")) as url:
        link = wire(url, choice)
        for _ in range(3):  # also on a connection that was used before
            answer = await link.exchange(link.request(b"GET", b"/"), 10)
            sample = read(answer, answer.sent_s, read_events)
            assert (sample.error, sample.output_tokens, len(sample.chunk_s)) == (None, 8, 8)
            assert all(a <= b for a, b in pairwise((answer.sent_s, *sample.chunk_s)))
        link.close()


BROKEN = {
    "reset": [HEAD, *map(chunk, EVENTS[:3])],
    "malformed": [HEAD, chunk(EVENTS[0]), b"zz\r\nwhat\r\n", b"0\r\n\r\n"],
    "cut-short": [HEAD, *map(chunk, EVENTS[:3]), b"0\r\n\r\n"],
}


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("kind", BROKEN)
async def test_a_broken_answer_is_named(kind: str, choice: Choice) -> None:
    async with writes(BROKEN[kind], hangs_up=True) as url:
        link = wire(url, choice)
        answer = await link.exchange(link.request(b"GET", b"/"), 10)
        sample = read(answer, answer.sent_s, read_events)
        link.close()
    # httpx does not tell what was wrong with the framing from a connection that broke.
    assert sample.error == kind or (choice, kind) == ("httpx", "malformed")
    assert sample.error is not None


@pytest.mark.parametrize("choice", CHOICES)
async def test_nobody_there_is_a_refusal(choice: Choice) -> None:
    async with writes([], hangs_up=True) as url:
        pass
    link = wire(url, choice)
    answer = await link.exchange(link.request(b"GET", b"/"), 10)
    link.close()
    assert read(answer, answer.sent_s, read_events).error == "refused"


@pytest.mark.parametrize("choice", CHOICES)
async def test_a_load_is_the_same_over_either_client(choice: Choice) -> None:
    async with scripted(completes) as server:
        session = LiveSession(server.endpoint(), Client(choice))
        shown = await session.measure(LOAD)
        hung_up = await session.measure(replace(LOAD, cancel_share=0.5, requests=12))
        session.close()
    assert (shown.completed, shown.failed, miscounts(shown)) == (12, 0, [])
    assert (shown.prompt_tokens, shown.output_tokens) == (12 * 20, 12 * 8)
    assert 0 < hung_up.cancelled < 12
    assert hung_up.completed == 12 - hung_up.cancelled


@pytest.mark.parametrize("choice", CHOICES)
async def test_a_server_that_hangs_runs_into_the_time_limit(choice: Choice) -> None:
    async def hangs(call: Call) -> None:
        if not call.body.get("stream"):
            await completes(call)
            return
        call.head()
        call.piece(event("x "))
        await call.writer.drain()
        await asyncio.Event().wait()

    async with scripted(hangs) as server:
        link = wire(server.url, choice)
        body = b'{"stream": true}'
        answer = await link.exchange(link.request(b"POST", b"/v1/completions", body), 0.2)
        link.close()
    assert read(answer, answer.sent_s, read_events).error == "timeout"


def test_httpx_steps_in_where_the_parser_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wires, "find_spec", lambda name: None if name == "httptools" else name)
    assert wire("http://127.0.0.1:1").name == "httpx"
    assert wire("http://127.0.0.1:1", "raw").name == "raw"


@pytest.mark.parametrize("choice", CHOICES)
async def test_the_client_tests_itself_before_it_judges(choice: Choice) -> None:
    client = await proven(Client(choice))
    assert 1e-6 < client.chunk_cost_s < 0.01


def test_a_load_near_what_the_client_can_carry_is_invalid() -> None:
    times = tuple(i / 1000 for i in range(1, 1001))
    sample = Sample(0.0, 0.0, 1.0, times, 1, 1000)

    def shown(cost_us: float, processes: int = 1) -> tuple[str, ...]:
        client = {"chunk_cost_s": cost_us / 1e6, "processes": float(processes)}
        return summarize(Run((sample,), 0.0, 1.0, client=client)).suspect

    assert not shown(100)
    assert any(doubt.startswith(INVALID) for doubt in shown(900))
    assert not shown(900, processes=2)
