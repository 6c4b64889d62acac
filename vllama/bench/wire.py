"""How a load reaches its server: the own client where it can run, else a general one."""

import asyncio
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, Protocol, TypeAlias, TypeVar
from urllib.parse import urlsplit

from vllama.bench.transcript import Transcript

Choice: TypeAlias = Literal["auto", "raw", "httpx"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Client:
    """What loads: over which wire, and in how many processes of its own (None: by the load).

    `chunk_cost_s` is the CPU time that a streamed chunk takes it, where that was tested.
    """

    choice: Choice = "auto"
    workers: int | None = None
    chunk_cost_s: float = 0.0

    @property
    def name(self) -> str:
        """What it is, in words."""
        slower = "" if find_spec("uvloop") else ", without uvloop"
        return chosen(self.choice) + slower


USUAL = Client()


def run_fast(work: Coroutine[Any, Any, T]) -> T:
    """Run on the faster loop where there is one."""
    if find_spec("uvloop") is None:
        return asyncio.run(work)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


class Wire(Protocol):
    """How requests reach one server."""

    name: str

    def request(
        self, method: bytes, path: bytes, body: bytes = b"",
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> bytes:  # fmt: skip
        """The bytes of one request to this server."""
        ...

    async def exchange(
        self, request: bytes, timeout_s: float, *, hang_up_after: int | None = None
    ) -> Transcript:
        """Send one request and wait for its whole answer; failures are in `.error`."""
        ...

    async def open(self, connections: int) -> None:
        """Connect so many times before the load; what fails then fails again under load."""
        ...

    def close(self) -> None:
        """Drop every connection."""
        ...


class Address:
    """Where a server is, and the bytes of a request to it."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not an http URL: {base_url}")
        self.host = parts.hostname
        self.is_tls = parts.scheme == "https"
        self.port = parts.port or (443 if self.is_tls else 80)
        self._prefix = parts.path.rstrip("/").encode()
        self._authority = parts.netloc.rpartition("@")[2].encode()

    def request(
        self, method: bytes, path: bytes, body: bytes = b"",
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> bytes:  # fmt: skip
        """As `Wire` says."""
        lines = [
            b"%b %b%b HTTP/1.1\r\nhost: %b\r\n" % (method, self._prefix, path, self._authority)
        ]
        lines += [b"%b: %b\r\n" % pair for pair in headers]
        if body or method not in (b"GET", b"HEAD"):
            lines.append(b"content-length: %d\r\n" % len(body))
        return b"".join((*lines, b"\r\n", body))


def chosen(choice: Choice) -> Choice:
    """What `auto` is here."""
    if choice == "auto":
        return "raw" if find_spec("httptools") else "httpx"
    return choice


def wire(base_url: str, choice: Choice = "auto") -> Wire:
    """The client for this server: the own one, or httpx where httptools is missing."""
    if chosen(choice) == "httpx":
        from vllama.bench.plain_wire import PlainWire

        return PlainWire(base_url)
    from vllama.bench.raw_wire import RawWire

    return RawWire(base_url)
