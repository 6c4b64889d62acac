"""Child processes that serve HTTP: started below a guard, watched, and stopped without a trace.

Only this module and its guard spawn and kill.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from vllama.errors import EngineFailed, PortInUse

TAIL = 400
POLL_S = 0.05
STOP_S = 10.0
LAST_WORDS_S = 0.5
ENDED = "[the process ended:"
Explain = Callable[[Sequence[str]], EngineFailed]
# Lines of progress buy time, but not for ever: so many times the silence that is allowed.
MOST_STALLS = 6


class Child:
    """A running command. It is also the `Life` of the endpoint that it serves."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        name: str,
        explain: Explain,
        on_line: Callable[[str], None],
        is_fatal: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._process = process
        self._is_fatal = is_fatal
        self._doomed = asyncio.Event()
        self._explain = explain
        self._log = logging.getLogger(f"vllama.engines.{name}")
        self._read = asyncio.create_task(self._drain(on_line))
        self.tail: deque[str] = deque(maxlen=TAIL)
        self.spoke_at = time.monotonic()
        self.stopping = False

    @property
    def pids(self) -> tuple[int, ...]:
        """The guard and all below it."""
        try:
            guard = psutil.Process(self._process.pid)
            return (guard.pid, *(p.pid for p in guard.children(recursive=True)))
        except psutil.Error:
            return ()

    @property
    def is_alive(self) -> bool:
        """Whether it has not exited."""
        return self._process.returncode is None

    @property
    def is_doomed(self) -> bool:
        """Whether its log has said that it cannot live, though it may not have exited yet."""
        return self._doomed.is_set()

    async def ended(self) -> EngineFailed:
        """Wait until it has exited; any exit of a server is a failure, also with status 0.

        A line that it cannot live on is as good as an exit, which may be minutes away.
        """
        signs = {
            asyncio.ensure_future(self._process.wait()),
            asyncio.ensure_future(self._doomed.wait()),
        }
        try:
            await asyncio.wait(signs, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in signs:
                each.cancel()
        # Its last words may still be in the pipe.
        await asyncio.wait({self._read}, timeout=LAST_WORDS_S)
        return self.cause()

    def cause(self) -> EngineFailed:
        """What its last words say, and how it ended if it has."""
        status = self._process.returncode
        ending = () if status is None else (f"{ENDED} {_ending(status)}]",)
        return self._explain((*self.tail, *ending))

    async def unless_dead(self, task: Coroutine[None, None, None]) -> None:
        """Wait for `task`, or for the process to die.

        Raises:
            EngineFailed: it died first, or was about to when the task failed.
        """
        work = asyncio.ensure_future(task)
        death = asyncio.ensure_future(self._process.wait())
        try:
            await asyncio.wait({work, death}, return_when=asyncio.FIRST_COMPLETED)
            if work.done() and work.exception() is not None:
                # A request breaks off a moment before the process is gone.
                await asyncio.wait({death}, timeout=LAST_WORDS_S)
            if death.done():
                raise await self.ended()
            await work
        finally:
            for each in (work, death):
                each.cancel()
            await asyncio.gather(work, death, return_exceptions=True)

    async def _drain(self, on_line: Callable[[str], None]) -> None:
        assert self._process.stdout is not None
        while True:
            try:
                raw = await self._process.stdout.readline()
            except ValueError:
                continue
            if not raw:
                return
            line = raw.decode(errors="replace").rstrip()
            self.tail.append(line)
            self.spoke_at = time.monotonic()
            self._log.debug("%s", line)
            on_line(line)
            if self._is_fatal(line):
                self._doomed.set()

    async def stop(self) -> None:
        """Ask the guard to stop the command and all of its session."""
        self.stopping = True
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_S)
        except TimeoutError:
            for pid in self.pids:
                with contextlib.suppress(psutil.Error):
                    psutil.Process(pid).kill()
            await self._process.wait()
        # When its guard was killed, the rest is still being stopped: it holds this pipe.
        await asyncio.wait({self._read}, timeout=STOP_S)
        self._read.cancel()


@asynccontextmanager
async def launch(
    command: Sequence[str],
    *,
    name: str,
    environment: Mapping[str, str],
    explain: Explain,
    on_line: Callable[[str], None] = lambda _: None,
    is_fatal: Callable[[str], bool] = lambda _: False,
) -> AsyncIterator[Child]:
    """Run `command` below a guard; on leaving, nothing of it is left.

    `is_fatal` knows lines of its log after which it cannot live.
    """
    guard = Path(__file__).with_name("guard.py")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", str(guard), *command,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT, env=dict(environment), limit=1 << 20,
        start_new_session=True,
    )  # fmt: skip
    child = Child(process, name, explain, on_line, is_fatal)
    try:
        yield child
    finally:
        # Also when cancelled: a second cancellation must not leave the engine behind.
        await _finish(child.stop())


def last_words(log: Sequence[str]) -> str:
    """The last line that it said itself, for a failure that nothing better explains."""
    said = [line.strip() for line in log if line.strip() and not line.startswith(ENDED)]
    ending = log[-1] if log and log[-1].startswith(ENDED) else ""
    return " ".join(
        part for part in (said[-1][:300] if said else "it said nothing", ending) if part
    )


async def _finish(work: Coroutine[None, None, None]) -> None:
    """Do all of it, however often the caller is cancelled meanwhile; the last one counts."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    task.result()


def _ending(status: int) -> str:
    number = -status if status < 0 else status - 128
    with contextlib.suppress(ValueError):
        if status < 0 or status > 128:
            return f"killed by {signal.Signals(number).name}"
    return f"exit status {status}"


async def wait_ready(
    child: Child, probe: Callable[[], Awaitable[bool]], *,
    stall_s: float | Callable[[], float], what: str,
) -> None:  # fmt: skip
    """Poll `probe` until it is true.

    `stall_s` is how long the child may be silent, always or in the phase that it is in: each
    line of its log gives it more time, up to MOST_STALLS times in a phase.

    Raises:
        EngineFailed: it exited or cannot live, was silent for too long, or talks for ever.
    """
    allowed_s, since = -1.0, time.monotonic()
    while True:
        if child.is_doomed or not child.is_alive:
            raise await child.ended()
        limit_s = stall_s() if callable(stall_s) else stall_s
        if limit_s != allowed_s:
            allowed_s, since = limit_s, time.monotonic()
        with contextlib.suppress(OSError):
            if await probe():
                return
        now = time.monotonic()
        if now - child.spoke_at > limit_s:
            raise _too_slow(f"{what} said nothing for {limit_s:.0f} s while starting", child)
        if now - since > MOST_STALLS * limit_s:
            raise _too_slow(f"{what} was not ready after {now - since:.0f} s, still talking", child)
        await asyncio.sleep(POLL_S)


def _too_slow(message: str, child: Child) -> EngineFailed:
    return EngineFailed(
        message,
        "Give it longer with OLLAMA_LOAD_TIMEOUT, or look at its log with --verbose.",
        kind="timeout",
        log=tuple(child.tail),
    )


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def check_port(host: str, port: int) -> None:
    """See whether one can listen there.

    Raises:
        PortInUse: saying who may hold it and how to choose another.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            remedy = "Choose another with --port, or stop the other one."
            raise PortInUse(f"{host}:{port} is in use{_holder(port)}", remedy) from error


def _holder(port: int) -> str:
    try:
        for each in psutil.net_connections("inet"):
            if each.laddr and each.laddr.port == port and each.status == psutil.CONN_LISTEN:
                name = psutil.Process(each.pid).name() if each.pid else "another user's process"
                return f" by {name}" + (f" (pid {each.pid})" if each.pid else "")
    except psutil.Error:
        pass
    return ""
