"""A server whose truth is known: every chunk carries the moment at which it was sent.

    python pacer.py PORT GAP_S TOKENS CORE

Streams are written in step, as a batching engine does. The first chunk of an answer leaves
at the tick after its request.
"""

import asyncio
import os
import sys
import time
from typing import ClassVar

from realtime import realtime

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
BEFORE = (
    b'data: {"id":"cmpl-3f2a9c0d1b7e4a55","object":"text_completion","created":1790000000,'
    b'"model":"meta-llama/Llama-3.1-8B-Instruct","choices":[{"index":0,"text":" token",'
    b'"logprobs":null,"finish_reason":null,"stop_reason":null}],"sent":'
)
LAST = (
    b'data: {"choices":[{"index":0,"text":"","finish_reason":"length"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":8,"completion_tokens":%d}}\n\n'
    b"data: [DONE]\n\n"
)


class Stream(asyncio.Protocol):
    """One connection; one request at a time."""

    active: ClassVar["set[Stream]"] = set()
    tokens = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.kept = b""

    def data_received(self, data: bytes) -> None:
        self.kept += data
        head, found, body = self.kept.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
        if len(body) < length:
            return
        self.kept = body[length:]
        self.left = self.tokens
        self.transport.write(HEAD)
        self.active.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self.active.discard(self)

    def tick(self) -> None:
        """The next token."""
        event = BEFORE + b"%.7f}\n\n" % time.perf_counter()
        self.transport.write(b"%x\r\n%b\r\n" % (len(event), event))
        self.left -= 1
        if self.left == 0:
            last = LAST % self.tokens
            self.transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last))
            self.active.discard(self)


async def main(port: int, gap_s: float) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    await loop.create_server(Stream, "127.0.0.1", port, backlog=4096)
    print("ready", flush=True)
    due = time.perf_counter()
    while True:
        due = max(due + gap_s, time.perf_counter() - gap_s)
        for stream in list(Stream.active):
            stream.tick()
        await asyncio.sleep(max(0.0, due - time.perf_counter()))


if __name__ == "__main__":
    import uvloop

    Stream.tokens = int(sys.argv[3])
    os.sched_setaffinity(0, {int(sys.argv[4])})
    realtime()
    uvloop.run(main(int(sys.argv[1]), float(sys.argv[2])))
