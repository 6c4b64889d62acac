"""The relay: moves one exchange's bytes between its client and an engine, and ends both sides.

It leases the engine, sends the call, passes what comes through the exchange, retries what may
be retried, slows the engine for a slow reader, and aborts when the client hangs up.
"""

import asyncio
import contextlib
import functools
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vllama.errors import EngineFailed, VllamaError
from vllama.server.lifecycle.member import Unavailable
from vllama.server.lifecycle.pool import Pool
from vllama.server.lifecycle.runner import Lease
from vllama.server.lifecycle.trace import Trace
from vllama.server.relay.downlink import Downlink, downlink
from vllama.server.relay.exchange import Call, Exchange, Reply, outward
from vllama.server.relay.sinks import Stream, Whole
from vllama.uplink import Uplink, UplinkClosed

T = TypeVar("T")

# How long a broken connection waits to be explained by the engine's death.
PATIENCE_S = 1.0


@dataclass(frozen=True, slots=True)
class _Client:
    """Who asked; `down` is the way straight to it, if there is one."""

    scope: Scope
    send: Send
    down: Downlink | None

    async def finish(self, data: bytes) -> None:
        """Send the last of an answer, which may be empty, and its end."""
        down = self.down
        if down is None or not (down.is_lost or down.finish(self.scope, data)):
            await self.send({"type": "http.response.body", "body": data})

    async def answer(self, reply: Reply) -> None:
        """Send a whole answer."""
        down = self.down
        if down is not None and (down.is_lost or down.answer(self.scope, reply)):
            return
        headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body))]
        start = {"type": "http.response.start", "status": reply.status, "headers": headers}
        await self.send(start)
        await self.send({"type": "http.response.body", "body": reply.body})


class ClientLeft(Exception):
    """The client hung up before it had its answer."""


class _Broken(Exception):
    """The engine's answer was cut short; `begun` says whether the client has got some of it."""

    def __init__(self, error: VllamaError, *, begun: bool) -> None:
        super().__init__(error)
        self.error = error
        self.begun = begun


def answer(_request: Request, pool: Pool, exchange: Exchange) -> Response:
    """The response to a request whose body has been read: all work is done as it is sent."""
    return Relayed(pool, exchange)


async def fetch(lease: Lease, call: Call) -> Reply:
    """One whole answer of the engine, whatever its status.

    Raises:
        EngineFailed: it cannot be reached or broke off.
    """
    whole = Whole()
    link = await _send(lease, call, whole)
    try:
        error = await whole.ended
    except asyncio.CancelledError:
        link.abort()
        raise
    if isinstance(error, UplinkClosed) and error.untouched:
        return await fetch(lease, call)
    if error is not None:
        raise await _why(lease, error)
    return whole.reply()


async def connected(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client hangs up.

    Raises:
        ClientLeft: it did.
    """
    return await _while_there(request.receive, work)


class Relayed(Response):
    """The answer to one exchange, made while it is sent."""

    def __init__(self, pool: Pool, exchange: Exchange) -> None:
        # What a plain response prepares is of no use here.
        self.background, self.body, self.status_code = None, b"", 200
        self.raw_headers = []
        self._pool = pool
        self._exchange = exchange
        self._trace = Trace(exchange.model)
        self._address = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve it; a client that leaves takes everything along at once."""
        self._address = (scope.get("client") or ("",))[0]
        client = _Client(scope, send, downlink(scope))
        try:
            reply = await self._watched(client, receive)
            if reply is not None:
                await client.answer(reply)
        finally:
            self._pool.observer.answered(self._trace)
            if self._pool.shapes is not None:
                self._pool.shapes.seen(self._exchange, self._trace)

    async def _watched(self, client: _Client, receive: Receive) -> Reply | None:
        down = client.down
        if down is None:
            with contextlib.suppress(ClientLeft):
                return await _while_there(receive, self._serve(client))
            return None
        task = asyncio.current_task()
        if task is None or down.is_lost:
            return None
        down.watch(functools.partial(_hang_up, task))
        try:
            return await self._serve(client)
        except asyncio.CancelledError:
            if not down.is_lost:
                raise
            task.uncancel()
            return None
        finally:
            down.unwatch()

    async def _serve(self, client: _Client) -> Reply | None:
        """Serve it; what is still to be sent, None when all has been."""
        for last_try in (False, True):
            try:
                reply = await self._attempt(client)
            except _Broken as broken:
                if broken.begun:
                    await client.finish(self._exchange.broken(broken.error))
                    self._trace.end("broken", 200, broken.error.message)
                    return None
                # Nothing has left yet: a new engine may answer as if nothing had been.
                if last_try:
                    return self._failed(broken.error)
            else:
                return reply
        return None

    async def _attempt(self, client: _Client) -> Reply | None:
        """Ask the engine once; a reply that is still to be sent, or None when all has been."""
        exchange, trace = self._exchange, self._trace
        lease_of = self._pool.lease(
            exchange.model, exchange.keep_alive_s,
            client=self._address, affinity=exchange.affinity,
        )  # fmt: skip
        try:
            async with lease_of as lease:
                trace.leased()
                await _prepared(exchange, lease)
                call = exchange.call(lease)
                if exchange.streams:
                    return await self._stream(lease, call, client)
                reply = await _fetched(lease, call)
                trace.read()
                return self._told(reply)
        except VllamaError as error:
            return self._failed(error)

    def _told(self, reply: Reply) -> Reply:
        """The engine's whole answer as the client's."""
        if reply.status != 200:
            self._trace.end("refused", reply.status)
            return self._exchange.refused(reply)
        try:
            answer = self._exchange.whole(reply)
        except VllamaError:
            raise
        except Exception as error:  # whatever an engine may say, the client hears it in its form
            said = reply.body[:80].decode(errors="replace")
            raise EngineFailed(f"the engine's answer cannot be read: {said}") from error
        self._trace.end("ok", answer.status)
        return answer

    def _failed(self, error: VllamaError) -> Reply:
        reply = self._exchange.failed(error)
        self._trace.end("failed", reply.status, error.message)
        if isinstance(error, Unavailable):
            retry = (b"retry-after", b"%d" % max(1, round(error.retry_after_s)))
            return Reply(reply.status, reply.body, [*reply.headers, retry])
        return reply

    async def _stream(self, lease: Lease, call: Call, client: _Client) -> Reply | None:
        while True:
            stream = Stream(self._exchange, self._trace, client.scope, client.down)
            link = await _begun(lease, call, stream)
            try:
                await self._pass(stream, link, client.send)
            finally:
                if not stream.ended:
                    link.abort()
            error = stream.error
            if not (isinstance(error, UplinkClosed) and error.untouched):
                break
        if error is not None:
            why = error if isinstance(error, VllamaError) else await _why(lease, error)
            raise _Broken(why, begun=stream.begun) from error
        if stream.status != 200:
            return self._told(stream.reply())
        last = stream.take() + self._exchange.end()
        if not stream.begun:
            await _begin(stream, client.send)
        await client.finish(last)
        self._trace.end("ok", 200)
        return None

    async def _pass(self, stream: Stream, link: Uplink, send: Send) -> None:
        """Hand the client what goes the usual way, until the engine has ended.

        What comes with a good end is left for it.
        """
        stream.link = link
        while True:
            await stream.news.wait()
            stream.news.clear()
            if stream.ended and (stream.error is None or not stream.size):
                return
            data = stream.take()
            if data:
                if not stream.begun:
                    await _begin(stream, send)
                await send({"type": "http.response.body", "body": data, "more_body": True})
            if stream.ended and not stream.size:
                return
            if not stream.ended and not stream.size:
                stream.flow()


async def _begin(stream: Stream, send: Send) -> None:
    stream.begun = True
    await send({"type": "http.response.start", "status": 200, "headers": stream.headers})


async def _while_there(receive: Receive, work: Awaitable[T]) -> T:
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeft
        return task.result()
    finally:
        watch.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


def _hang_up(task: "asyncio.Task[object]") -> None:
    task.cancel()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(lease: Lease, call: Call, sink: Whole | Stream) -> Uplink:
    uplinks = lease.uplinks
    try:
        link = await uplinks.acquire()
    except OSError as error:
        raise await _why(lease, error) from error
    headers = (*call.headers, *outward.get())
    link.send(uplinks.request(call.method, call.path, call.body, headers), sink)
    return link


async def _begun(lease: Lease, call: Call, stream: Stream) -> Uplink:
    try:
        return await _send(lease, call, stream)
    except EngineFailed as error:
        raise _Broken(error, begun=False) from error


async def _prepared(exchange: Exchange, lease: Lease) -> None:
    try:
        await exchange.prepare(lease)
    except EngineFailed as error:
        if error.kind not in ("crash", "hang"):
            raise
        raise _Broken(error, begun=False) from error


async def _fetched(lease: Lease, call: Call) -> Reply:
    try:
        return await fetch(lease, call)
    except EngineFailed as error:
        raise _Broken(error, begun=False) from error


async def _why(lease: Lease, error: Exception) -> EngineFailed:
    """The engine's own last words when it has died, else what the connection says."""
    death = await lease.lost(PATIENCE_S)
    if death is not None:
        return death
    return EngineFailed(f"the engine broke off: {error}", kind="crash")
