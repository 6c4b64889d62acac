"""Changing to newly tuned profiles while serving: on SIGHUP, or when the shelf changes."""

import asyncio
import contextlib
import logging
from pathlib import Path
from types import TracebackType

from vllama.errors import VllamaError
from vllama.server.lifecycle.pool import Pool

log = logging.getLogger(__name__)
LOOK_S = 1.0


class Renewal:
    """Renews every loaded model of `pool` when told to, or when a file below `shelf` changes."""

    def __init__(self, pool: Pool, shelf: Path, *, watch: bool) -> None:
        self._pool = pool
        self._shelf = shelf
        self._watch = watch
        self._wanted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def now(self) -> None:
        """Look at all profiles now."""
        self._wanted.set()

    async def __aenter__(self) -> "Renewal":
        self._tasks = [asyncio.create_task(self._renew())]
        if self._watch:
            self._tasks.append(asyncio.create_task(self._look()))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _renew(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            for one in self._pool.loaded():
                try:
                    if not await self._pool.renew(one.name):
                        log.info("%s: its profile is as it was", one.name)
                except VllamaError as error:
                    log.error("%s: stays with its old profile: %s", one.name, error)

    async def _look(self) -> None:
        seen = self._state()
        while True:
            await asyncio.sleep(LOOK_S)
            now = await asyncio.to_thread(self._state)
            if now != seen:
                seen = now
                self.now()

    def _state(self) -> frozenset[tuple[str, int, int]]:
        found = set()
        for path in self._shelf.glob("*/*.json"):
            with contextlib.suppress(OSError):
                status = path.stat()
                found.add((str(path), status.st_mtime_ns, status.st_ino))
        return frozenset(found)
