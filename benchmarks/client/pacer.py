"""A server whose truth is known: every chunk carries the moment at which it was sent.

    python -m benchmarks.client.pacer PORT GAP_S TOKENS CORE

Streams are written in step, as a batching engine does. The first chunk of an answer leaves
at the tick after its request. `GET /truth` tells when what was sent since it was last asked.
"""

import asyncio
import json
import os
import sys
import time
from typing import ClassVar, cast

from benchmarks.client.realtime import realtime

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


CHAT = BEFORE.replace(b"text_completion", b"chat.completion.chunk").replace(
    b'"text":" token"', b'"delta":{"content":" token"}'
)
MODELS = {"object": "list", "data": [{"id": "m", "object": "model", "max_model_len": 4096}]}


class Stream(asyncio.Protocol):
    """One connection; one request at a time."""

    active: ClassVar["set[Stream]"] = set()
    sent: ClassVar[list[list[float]]] = []
    tokens = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's in all but their class.
        self.transport = cast(asyncio.Transport, transport)
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
        if head.startswith(b"GET"):
            self.tell(head.split(b" ")[1])
            return
        self.left = self.tokens
        self.before = CHAT if b"/chat/" in head else BEFORE
        self.times = [time.perf_counter()]
        self.sent.append(self.times)
        self.transport.write(HEAD)
        self.active.add(self)

    def tell(self, path: bytes) -> None:
        """What is no stream: the truth, the models, and that all is well."""
        truth = path == b"/truth"
        document = json.dumps(Stream.sent if truth else MODELS).encode()
        if truth:
            Stream.sent.clear()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self.transport.write(head % len(document) + document)

    def connection_lost(self, _: Exception | None) -> None:
        self.active.discard(self)

    def tick(self) -> None:
        """The next token."""
        now_s = time.perf_counter()
        self.times.append(now_s)
        event = self.before + b"%.7f}\n\n" % now_s
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
