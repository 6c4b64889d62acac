"""What a streamed chunk costs this client here: measured on loopback before a serious run.

As a program (`python -m vllama.bench.selftest`) it is the server of that test.
"""

import asyncio
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from vllama.bench.answers import read, read_events
from vllama.bench.wire import Client, run_fast, wire
from vllama.errors import VllamaError

STREAMS = 48
CHUNKS = 60
GAP_S = 0.008
_TIMEOUT_S = 30.0
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_EVENT = (
    b'data: {"id":"cmpl-0123456789abcdef","object":"text_completion","created":1790000000,'
    b'"model":"organisation/a-model-of-some-size","choices":[{"index":0,"text":" token",'
    b'"logprobs":null,"finish_reason":null,"stop_reason":null}]}\n\n'
)
_ENDING = (
    b'data: {"choices":[{"index":0,"text":"","finish_reason":"length"}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":%d}}\n\n' % CHUNKS,
    b"data: [DONE]\n\n",
)


async def proven(client: Client) -> Client:
    """`client` with what a chunk costs it: all of its work, reading after the load included.

    Raises:
        VllamaError: it did not read what was sent, and so can measure nothing.
    """
    async with _server() as url:
        link = wire(url, client.choice)
        request = link.request(b"GET", b"/")
        await link.open(STREAMS)
        began_s = time.process_time()
        answers = await asyncio.gather(
            *(link.exchange(request, _TIMEOUT_S) for _ in range(STREAMS))
        )
        samples = [read(answer, answer.sent_s, read_events) for answer in answers]
        took_s = time.process_time() - began_s
        link.close()
    chunks = sum(len(s.chunk_s) for s in samples)
    if chunks != STREAMS * CHUNKS or any(s.error for s in samples):
        raise VllamaError(
            f"the load generator failed its own test: {chunks} of {STREAMS * CHUNKS} chunks",
            "Try --client httpx; if that helps, report it.",
        )
    return replace(client, chunk_cost_s=took_s / chunks)


@asynccontextmanager
async def _server() -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "vllama.bench.selftest", stdin=PIPE, stdout=PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        port = (await process.stdout.readline()).decode().strip()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.stdin.close()
        if process.returncode is None:
            process.kill()
        await process.wait()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(_HEAD)
    for _ in range(CHUNKS):
        # One write a chunk and a pause: as a server streams, not as a file is sent.
        await asyncio.sleep(GAP_S)
        writer.write(_chunk(_EVENT))
    for event in _ENDING:
        writer.write(_chunk(event))
    writer.write(b"0\r\n\r\n")


async def _serve() -> None:
    server = await asyncio.start_server(_answer, "127.0.0.1", 0, backlog=256)
    print(server.sockets[0].getsockname()[1], flush=True)
    # The end of stdin is the end of the test.
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    run_fast(_serve())
