"""The watchdog: a load that takes longer than it should, on an engine that makes no token."""

import asyncio
import time
from collections.abc import Mapping
from typing import Protocol

from vllama.bench.rig import Session
from vllama.bench.workload import Workload

# Nobody is asked before a load should be over, so that a measurement is not disturbed.
GRACE_S, QUIET_S, POLL_S = 5.0, 10.0, 1.0
_COUNTED = ("prompt_tokens", "generated_tokens")


class Counting(Protocol):
    """What can ask an engine for its counters."""

    async def counters(self) -> Mapping[str, float]:
        """Its own figures now; empty when it does not answer."""
        ...


async def hang(session: Session, load: Workload) -> None:
    """Return when the engine has read and made no token for too long; for ever if it never hangs.

    An engine without counters is not suspected.
    """
    counting = _counting(session)
    if counting is None:
        await asyncio.Event().wait()
        return
    await asyncio.sleep((load.duration_s or 60.0) + GRACE_S)
    seen: tuple[float, ...] | None = None
    since = time.monotonic()
    while seen is None or time.monotonic() - since < QUIET_S:
        now = _tokens(await counting.counters())
        if now is not None and now != seen:
            seen, since = now, time.monotonic()
        await asyncio.sleep(POLL_S)


def _counting(session: object) -> Counting | None:
    """What asks the engine, also below what is wrapped around a session."""
    while session is not None:
        counting: Counting | None = getattr(session, "connection", None)
        if counting is not None:
            return counting
        session = getattr(session, "session", None)
    return None


def _tokens(counters: Mapping[str, float]) -> tuple[float, ...] | None:
    told = tuple(counters[name] for name in _COUNTED if name in counters)
    return told or None
