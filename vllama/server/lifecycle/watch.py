"""Noticing an engine that has died or hangs, within about a second."""

import asyncio
import contextlib
from collections.abc import Sequence
from enum import Enum

import psutil

from vllama.engines.engine import Endpoint
from vllama.errors import EngineFailed
from vllama.uplink import Headers, UplinkPool

POLL_S = 0.25
SILENCE_S = 0.7
# How often the list of an engine's processes is asked for: it costs a walk over all of them.
LOOKS = 20
# An engine that computes may be late to answer; one that never answers is wedged.
WEDGED_S = 60.0
# Of what somebody else runs no processor time is known: it is given longer before it is left out.
FOREIGN_S = 15.0
_RUNNABLE = frozenset({psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP})


async def over(endpoint: Endpoint, uplinks: UplinkPool) -> EngineFailed:
    """Wait until what serves `endpoint` has died or hangs; the reason."""
    death = asyncio.ensure_future(endpoint.life.ended())
    hang = asyncio.ensure_future(_hangs(endpoint, uplinks))
    try:
        await asyncio.wait({death, hang}, return_when=asyncio.FIRST_COMPLETED)
        return death.result() if death.done() else hang.result()
    finally:
        death.cancel()
        hang.cancel()


async def _hangs(endpoint: Endpoint, uplinks: UplinkPool) -> EngineFailed:
    """It is stopped, or silent without using a processor: a busy one is only late."""
    loop = asyncio.get_running_loop()
    processes = _Processes(endpoint)
    silent_since_s: float | None = None
    while True:
        await asyncio.sleep(POLL_S)
        if processes.one_is_stopped():
            return EngineFailed("the engine has been stopped (SIGSTOP)", kind="hang")
        asked_s = loop.time()
        said = await _asked(uplinks, SILENCE_S)
        if said is _Said.SOMETHING:
            silent_since_s = None
            continue
        if said is _Said.NO:
            # Refused, not silent: if it is ours, `ended` will say what it died of.
            if not endpoint.life.pids:
                return EngineFailed("it refuses connections", kind="crash")
            continue
        late_s = loop.time() - (silent_since_s or asked_s)
        if not processes.are_known:
            is_over = late_s > FOREIGN_S
        else:
            works = processes.have_worked()
            is_over = late_s > WEDGED_S or (silent_since_s is not None and not works)
        if is_over:
            return EngineFailed(f"the engine has not answered for {late_s:.0f} s", kind="hang")
        silent_since_s = silent_since_s or asked_s


class _Processes:
    """What the system says of an engine's processes."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._pids: Sequence[int] = ()
        self._look = 0
        self._cpu_s = 0.0

    def one_is_stopped(self) -> bool:
        """Whether one will not go on by itself."""
        if self._look % LOOKS == 0:
            self._pids = self._endpoint.life.pids
        self._look += 1
        for pid in self._pids:
            with contextlib.suppress(psutil.Error):
                if psutil.Process(pid).status() == psutil.STATUS_STOPPED:
                    return True
        return False

    @property
    def are_known(self) -> bool:
        """Whether they can be looked at: what somebody else runs cannot."""
        return bool(self._pids)

    def have_worked(self) -> bool:
        """Whether they have used a processor since the last question, or wait for one."""
        total, is_runnable = 0.0, False
        for pid in self._pids:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                times = process.cpu_times()
                total += times.user + times.system
                is_runnable |= process.status() in _RUNNABLE
        before, self._cpu_s = self._cpu_s, total
        return is_runnable or total > before + 0.01


class _Said(Enum):
    """What came back on a question."""

    SOMETHING = "an answer"
    NO = "a refusal"
    NOTHING = "silence"


async def _asked(uplinks: UplinkPool, within_s: float) -> _Said:
    """What it says to `GET /health` in time: any answer will do."""
    word = _Word()
    try:
        async with asyncio.timeout(within_s):
            link = await uplinks.acquire()
            try:
                link.send(uplinks.request(b"GET", b"/health"), word)
                return _Said.SOMETHING if await word.ended else _Said.NO
            finally:
                if not word.ended.done() or word.ended.cancelled():
                    link.abort()
    except TimeoutError as error:
        # The kernel's own, of a host that is away, is a refusal: nobody is there to be silent.
        return _Said.NO if error.errno is not None else _Said.NOTHING
    except OSError:
        return _Said.NO


class _Word:
    """Whether an answer came."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def on_head(self, status: int, headers: Headers) -> None:
        pass

    def on_body(self, piece: bytes) -> None:
        pass

    def on_flush(self) -> None:
        pass

    def on_end(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(error is None)
