"""Time as a parameter: what a clock must offer, and waiting on it."""

import asyncio
from collections.abc import Callable
from typing import Protocol


class Handle(Protocol):
    """Something that was put off and can be called off."""

    def cancel(self) -> None:
        """Never do it."""
        ...


class Timer(Protocol):
    """Time, as an event loop keeps it; seconds."""

    def time(self) -> float:
        """Now, on a clock that only goes forward."""
        ...

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Handle:
        """Call back in `delay` seconds."""
        ...


async def sleep(timer: Timer, delay_s: float) -> None:
    """Wait on `timer`; no delay is no wait."""
    if delay_s <= 0:
        return
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def ring() -> None:
        if not over.done():
            over.set_result(None)

    handle = timer.call_later(delay_s, ring)
    try:
        await over
    finally:
        handle.cancel()
