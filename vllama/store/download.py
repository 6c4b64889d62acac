"""Fetching one blob: in parts, several at a time, going on where an earlier try stopped."""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path
from typing import Protocol

import httpx
from filelock import FileLock, Timeout

from vllama.store.blobs import full
from vllama.store.errors import TransferFailed
from vllama.store.layout import hex_of
from vllama.store.registry import Limits, refused, unreachable, wait

_TICK_S = 0.06
_NOTE_EVERY = 8 << 20


class Source(Protocol):
    """Where the bytes of a blob come from."""

    @property
    def base(self) -> str:
        """What an error names."""
        ...

    def bytes_from(
        self, digest: str, start: int, end: int
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """The answer with the bytes from `start` to before `end`, still to be read."""
        ...

    async def log_in(self, reply: httpx.Response, /) -> bool:
        """After a 401: whether asking again makes sense now."""
        ...


class Download:
    """One blob on its way. Until it is whole and checked, only hidden files exist."""

    def __init__(self, digest: str, size: int, blob: Path, source: Source, limits: Limits) -> None:
        self.digest, self.size, self.blob = digest, size, blob
        self.source, self.limits = source, limits
        self.partial = blob.with_name(f".partial-{hex_of(digest)}")
        self.notes = blob.with_name(f"{self.partial.name}.json")
        self.parts: list[_Part] = []
        self._since_note = 0

    @property
    def completed(self) -> int:
        """Bytes that are here."""
        if self.blob.exists():
            return self.size
        return sum(part.done for part in self.parts)

    async def run(self) -> AsyncGenerator[int, None]:
        """Fetch it, telling every moment how many bytes are here.

        Raises:
            TransferFailed: the registry refuses, or what came is not what was promised.
            StorageError: the disk is full.
        """
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.partial.with_name(f"{self.partial.name}.lock"))
        while not _acquired(lock):  # somebody else fetches the same blob
            yield 0
            await asyncio.sleep(_TICK_S)
        try:
            if not self.blob.exists():
                async with aclosing(self._run()) as counts:
                    async for completed in counts:
                        yield completed
        finally:
            _release(lock)

    async def _run(self) -> AsyncGenerator[int, None]:
        self._open()
        work = asyncio.ensure_future(self._fetch())
        try:
            while not work.done():
                yield self.completed
                await asyncio.wait({work}, timeout=_TICK_S)
            await work
        finally:
            if not work.done():
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
            self._note()
        await asyncio.to_thread(self._finish)

    async def _fetch(self) -> None:
        """All parts, some at a time; the first failure ends the others."""
        gate = asyncio.Semaphore(self.limits.streams)

        async def one(part: _Part) -> None:
            async with gate:
                await self._fetch_part(part)

        try:
            async with asyncio.TaskGroup() as group:
                for part in self.parts:
                    if part.is_open:
                        group.create_task(one(part))
        except BaseExceptionGroup as failures:
            first = _first(failures)
            if not isinstance(first, _NoRanges):
                raise first from None
            self.parts = [_Part(0, self.size)]
            await self._fetch_part(self.parts[0])

    async def _fetch_part(self, part: "_Part") -> None:
        tries = 0
        while part.is_open:
            before = part.done
            try:
                await self._read(part)
            except (httpx.HTTPError, _Again) as error:
                tries = 1 if part.done > before else tries + 1
                reply = error.reply if isinstance(error, _Again) else None
                asked = reply.headers.get("retry-after", "") if reply is not None else ""
                if tries >= self.limits.tries:
                    raise _given_up(self.source.base, error) from error
                await wait(tries, asked, self.limits)

    async def _read(self, part: "_Part") -> None:
        """Bytes of one connection into the file."""
        at, end = part.start + part.done, part.end
        async with self.source.bytes_from(self.digest, at, end) as reply:
            await self._check(reply, part)
            with self.partial.open("r+b") as file:
                file.seek(part.start + part.done)
                async for data in reply.aiter_raw():
                    piece = data[: part.end - part.start - part.done]
                    try:
                        file.write(piece)
                        file.flush()
                    except OSError as error:
                        raise full(self.partial.parent, error) from error
                    part.done += len(piece)
                    self._note_sometimes()
        if part.is_open:
            raise httpx.ReadError("the connection ended early")

    async def _check(self, reply: httpx.Response, part: "_Part") -> None:
        """Whether the answer is the bytes that were asked for."""
        if reply.status_code == 200:  # this server has no ranges: all of it, from the start
            if len(self.parts) > 1:
                raise _NoRanges
            part.done = 0
        elif reply.status_code == 401 and await self.source.log_in(reply):
            raise _Again(None)
        elif reply.status_code == 429 or reply.status_code >= 500:
            raise _Again(reply)
        elif reply.status_code != 206:
            await reply.aread()
            raise refused(reply.status_code, reply.text)

    def _open(self) -> None:
        """The parts, with what an earlier try has left of them."""
        size, limits = self.size, self.limits
        step = max(limits.part_bytes, -(-size // limits.parts), 1)
        self.parts = [_Part(s, min(s + step, size)) for s in range(0, size, step)]
        done = self._noted()
        try:
            if done is None or len(done) != len(self.parts):
                with self.partial.open("wb") as file:
                    file.truncate(size)
            else:
                for part, count in zip(self.parts, done, strict=True):
                    part.done = max(0, min(count, part.end - part.start))
        except OSError as error:
            raise full(self.partial.parent, error) from error

    def _noted(self) -> list[int] | None:
        try:
            document = json.loads(self.notes.read_text("utf-8"))
            whole = document["size"] == self.size == self.partial.stat().st_size
            return [int(n) for n in document["done"]] if whole else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _note_sometimes(self) -> None:
        if self.completed - self._since_note >= _NOTE_EVERY:
            self._since_note = self.completed
            self._note()

    def _note(self) -> None:
        """How far each part is, for a later try; never ahead of what the file holds."""
        beside = self.notes.with_name(f"{self.notes.name}.new")
        try:
            noted = {"size": self.size, "done": [p.done for p in self.parts]}
            beside.write_text(json.dumps(noted), "utf-8")
            beside.replace(self.notes)
        except OSError:
            self.notes.unlink(missing_ok=True)

    def _finish(self) -> None:
        """Check the digest, and only then give the file its name."""
        try:
            with self.partial.open("r+b") as file:
                got = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
        except OSError as error:
            raise full(self.partial.parent, error) from error
        if got != hex_of(self.digest):
            self.forget()
            raise TransferFailed(
                "digest mismatch, file must be downloaded again: "
                f"want {self.digest}, got sha256:{got}"
            )
        self.partial.chmod(0o644)
        self.partial.replace(self.blob)
        self.forget()

    def forget(self) -> None:
        """Remove what is half done."""
        for path in (self.partial, self.notes):
            path.unlink(missing_ok=True)


class _Part:
    def __init__(self, start: int, end: int) -> None:
        self.start, self.end, self.done = start, end, 0

    @property
    def is_open(self) -> bool:
        return self.done < self.end - self.start


class _Again(Exception):
    """The registry is busy, or has handed out a new token."""

    def __init__(self, reply: httpx.Response | None) -> None:
        super().__init__("the registry is busy" if reply is not None else "a new token")
        self.reply = reply


class _NoRanges(Exception):
    """Parts were asked for, and the server sent everything."""


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _acquired(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _release(lock: FileLock) -> None:
    lock.release()
    Path(lock.lock_file).unlink(missing_ok=True)


def _given_up(url: str, error: Exception) -> TransferFailed:
    if isinstance(error, _Again) and error.reply is not None:
        return refused(error.reply.status_code, "the registry is busy")
    if isinstance(error, httpx.HTTPError):
        return unreachable("GET", url, error)
    return TransferFailed(str(error))
