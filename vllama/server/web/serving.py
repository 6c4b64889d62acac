"""Listening: one process that answers HTTP until it is told to stop, and then ends well."""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from vllama.engines.process import check_port
from vllama.server.relay.downlink import Downlink

log = logging.getLogger(__name__)
BACKLOG = 4096
# Requests leave hardly any cycles behind: to look for them after every 700 objects costs more
# than they do.
RARELY = (50_000, 20, 20)
KEEP_ALIVE_S = 75
# After a minute of silence from its kernel, a client is taken to be gone (milliseconds, seconds).
VANISHED = {
    "TCP_USER_TIMEOUT": 60_000, "TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3,
}  # fmt: skip


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A socket that listens there; port 0 takes a free one. `shared` lets workers do the same.

    Raises:
        PortInUse: saying who holds it.
    """
    if port:
        check_port(host, port)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    # Accepted sockets inherit these; without, a client's delayed acknowledgement costs 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # And one that vanishes without a word is found out.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in VANISHED.items():
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    listener.bind((host, port))
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


class Server(uvicorn.Server):
    """Serves `app` on one socket. Signals are the caller's: it calls `stop`."""

    def __init__(self, app: ASGIApp, *, drain_s: float, ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app, loop="uvloop", http=Downlink, ws="none", lifespan="off", log_config=None,
                access_log=False, server_header=False, proxy_headers=False, backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_S, timeout_graceful_shutdown=max(1, round(drain_s)),
            )
        )  # fmt: skip
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        # What is here by now stays: looking through it for garbage again and again would stop
        # every stream for milliseconds.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*RARELY)
        self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them to whoever started this."""
        yield

    def stop(self) -> None:
        """Take no more, let what is under way finish; asked twice, drop it."""
        self.force_exit = self.should_exit
        self.should_exit = True


def on_signals(halt: Callable[[], None], changed: Callable[[], None]) -> list[int]:
    """SIGTERM and SIGINT call `halt`, SIGHUP `changed`; the list fills with what came."""
    loop = asyncio.get_running_loop()
    came: list[int] = []

    def stop(number: int) -> None:
        came.append(number)
        halt()

    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stop, number)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda n, _: loop.call_soon_threadsafe(stop, n))
    if hasattr(signal, "SIGHUP"):
        loop.add_signal_handler(signal.SIGHUP, changed)
    return came


def raise_file_limit() -> None:
    """Each stream needs two descriptors, and the usual soft limit is 1024."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard > soft else soft, hard))
