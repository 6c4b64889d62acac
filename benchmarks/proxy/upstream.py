"""A synthetic engine: events shaped like vLLM's, all streams in the same tick, each with a stamp.

`python -m benchmarks.proxy.upstream RATE`: prints its port, serves until its input closes.
`/v1/chat/completions` with `max_tokens`; a prompt that holds `hold` is never answered, one
that holds `flood` without pacing. `/aborts` lists when clients hung up (monotonic ns).
"""

import asyncio
import json
import sys
import time

import httptools

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = (
    b'data: {"id":"chatcmpl-bea051994cc43fb6","object":"chat.completion.chunk",'
    b'"created":1795444126,"model":"m","choices":[{"index":0,"delta":{"content":"%d "},'
    b'"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'
)
LAST = (
    b'data: {"id":"chatcmpl-bea051994cc43fb6","object":"chat.completion.chunk",'
    b'"created":1795444126,"model":"m","choices":[{"index":0,"delta":{"content":""},'
    b'"logprobs":null,"finish_reason":"length","stop_reason":null}]}\n\n'
    b'data: {"id":"chatcmpl-bea051994cc43fb6","object":"chat.completion.chunk",'
    b'"created":1795444126,"model":"m","choices":[],"usage":{"prompt_tokens":11,'
    b'"total_tokens":%d,"completion_tokens":%d}}\n\ndata: [DONE]\n\n'
)
WHOLE = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1795444126,"model":"m","choices":'
    b'[{"index":0,"message":{"role":"assistant","content":"%b"},"logprobs":null,'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":11,"total_tokens":211,'
    b'"completion_tokens":200}}'
)


def chunk(data: bytes) -> bytes:
    """As HTTP frames it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Engine:
    """All streams, one clock."""

    def __init__(self, rate: float) -> None:
        self.period_s = 1 / rate
        self.streams: dict[Connection, list[int]] = {}
        self.aborts: list[int] = []

    async def tick(self) -> None:
        """One token for every stream, again and again."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + self.period_s, loop.time() - 1)
            await asyncio.sleep(due - loop.time())
            for connection, state in list(self.streams.items()):
                connection.token(state)


class Connection(asyncio.Protocol):
    """One kept-alive client."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.transport: asyncio.Transport | None = None
        self.parser = httptools.HttpRequestParser(self)
        self.body = b""
        self.url = b""
        self.waits = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url, self.body = url, b""

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        if self.url.endswith(b"/chat/completions"):
            self.complete(json.loads(self.body))
        elif self.url.endswith(b"/models"):
            self.reply(b'{"object":"list","data":[{"id":"m","object":"model"}]}')
        elif self.url == b"/aborts":
            self.reply(json.dumps(self.engine.aborts).encode())
        else:
            self.reply(b"{}")

    def complete(self, asked: dict[str, object]) -> None:
        prompt = json.dumps(asked.get("messages"))
        if "hold" in prompt:
            self.waits = True
        elif not asked.get("stream"):
            self.reply(WHOLE % (b"word " * 200))
        else:
            self.write(HEAD)
            self.engine.streams[self] = [0, int(str(asked.get("max_tokens") or 100))]

    def token(self, state: list[int]) -> None:
        state[0] += 1
        if state[0] <= state[1]:
            self.write(chunk(EVENT % time.monotonic_ns()))
            return
        del self.engine.streams[self]
        self.write(chunk(LAST % (state[1] + 11, state[1])) + b"0\r\n\r\n")

    def reply(self, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self.write(head % len(body) + body)

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def connection_lost(self, _exc: Exception | None) -> None:
        if self.waits or self.engine.streams.pop(self, None) is not None:
            self.engine.aborts.append(time.monotonic_ns())


async def main() -> None:
    """Serve until standard input closes."""
    engine = Engine(float(sys.argv[1]))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(engine), "127.0.0.1", 0, backlog=4096)
    ticking = asyncio.create_task(engine.tick())
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    ticking.cancel()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
