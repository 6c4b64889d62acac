"""Engines without a model: servers in this process whose behaviour a test decides."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from vllama.engines.engine import Endpoint
from vllama.engines.sleep import Sleep, Sleepless
from vllama.errors import EngineFailed, ModelNotFound
from vllama.machine import Machine
from vllama.model import Model
from vllama.profile import Profile
from vllama.server.lifecycle.plan import Plan, Start

Handler = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Clock:
    """Time that passes only when told. It is a `Timer`."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self._calls: list[tuple[float, Callable[[], object], list[bool]]] = []

    def time(self) -> float:
        return self.now_s

    def call_later(self, delay: float, callback: Callable[[], object], /) -> "Call":
        live = [True]
        self._calls.append((self.now_s + delay, callback, live))
        return Call(live)

    async def advance(self, delay_s: float) -> None:
        """Let time pass, and all that it sets off happen."""
        self.now_s += delay_s
        due = [c for c in self._calls if c[0] <= self.now_s]
        self._calls = [c for c in self._calls if c[0] > self.now_s]
        for _, callback, live in due:
            if live[0]:
                callback()
        await settled()


@dataclass
class Call:
    live: list[bool]

    def cancel(self) -> None:
        self.live[0] = False


async def settled() -> None:
    """Let everything run that can."""
    for _ in range(50):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens in other tasks, threads or processes; it must happen."""
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110 - it watches what has no event
            await asyncio.sleep(0.005)


def standing_still(value: Callable[[], int], looks: int = 100) -> Callable[[], bool]:
    """Whether a number has been the same for so many looks."""
    seen = [-1, 0]

    def still() -> bool:
        now = value()
        seen[1] = seen[1] + 1 if now and now == seen[0] else 0
        seen[0] = now
        return seen[1] > looks

    return still


class Mortal:
    """A life that a test can end."""

    pids: tuple[int, ...] = ()

    def __init__(self) -> None:
        self.death: asyncio.Future[EngineFailed] = asyncio.get_running_loop().create_future()

    def kill(self, message: str = "Segmentation fault") -> None:
        self.death.set_result(EngineFailed(message))

    async def ended(self) -> EngineFailed:
        return await asyncio.shield(self.death)


@asynccontextmanager
async def upstream(handler: Handler) -> AsyncIterator[str]:
    """A server whose every request goes to `handler`, but for health; its URL."""
    open_writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = 0
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                body = await reader.readexactly(length)
                if head.startswith(b"GET /health"):
                    writer.write(OK)
                else:
                    await handler(body, reader, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            open_writers.discard(writer)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in open_writers:
            writer.transport.abort()


async def silent(body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Never answers."""
    await reader.read()


@dataclass
class FakeEngine:
    """Starts at once, or when `may_start` is set, or not: `failures` are raised in turn.

    `failing` profiles, by name, never start.
    """

    handler: Handler = silent
    name: str = "fake"
    failures: list[EngineFailed] = field(default_factory=list)
    failing: set[str] = field(default_factory=set)
    may_start: asyncio.Event | None = None
    started: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    lives: list[Mortal] = field(default_factory=list)
    sleep: Sleep = field(default_factory=Sleepless)
    starting: int = 0

    def version(self) -> str:
        return "1"

    def accepts(self) -> frozenset[str]:
        return frozenset()

    def default(self, model: Model, machine: Machine) -> Profile:
        return Profile("default", "fake", model.name)

    @asynccontextmanager
    async def start(self, profile: Profile) -> AsyncIterator[Endpoint]:
        self.starting += 1
        try:
            if self.may_start is not None:
                await self.may_start.wait()
        finally:
            self.starting -= 1
        if self.failures:
            raise self.failures.pop(0)
        if profile.name in self.failing:
            raise EngineFailed(f"{profile.name} is too big", kind="out_of_memory")
        life = Mortal()
        self.lives.append(life)
        async with upstream(self.handler) as url:
            self.started.append(f"{profile.model}:{profile.name}")
            try:
                yield Endpoint(url, profile.model, "fake", life, sleep=self.sleep)
            finally:
                self.stopped.append(f"{profile.model}:{profile.name}")


@dataclass
class Shop:
    """Chooses among fake engines: `plans` by model, else one of `need_bytes` on `engine`."""

    engine: FakeEngine
    need_bytes: int = 0
    options: Mapping[str, int] = field(default_factory=dict)
    plans: dict[str, Plan] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)

    def key(self, name: str) -> str:
        return name.removesuffix(":latest")

    def plan(self, key: str) -> Plan:
        if key in self.unknown:
            raise ModelNotFound(key)
        if key in self.plans:
            return self.plans[key]
        profile = Profile("best", "fake", key, options=dict(self.options))
        return Plan((Start(self.engine, profile),), need_bytes=self.need_bytes)


@contextmanager
def raising(error: type[BaseException]) -> Iterator[None]:
    """Swallow one kind of error."""
    try:
        yield
    except error:
        pass
