"""The owner of the engines, when several worker processes serve: it lends them what it has."""

import asyncio
import contextlib
import itertools
from pathlib import Path

from vllama.errors import EngineFailed, VllamaError
from vllama.server.lifecycle.pool import Loaded, Pool
from vllama.server.telemetry.metrics import Telemetry
from vllama.server.telemetry.relabel import Families
from vllama.server.workers.letters import LIMIT, Letter, Line, endpoint_letter, error_letter

TELL_S = 0.5
ASK_S = 2.0


class Owner:
    """Answers workers on a socket in the file system that only this user can open."""

    def __init__(self, pool: Pool, telemetry: Telemetry, path: Path, *, expected: int = 1) -> None:
        self._pool = pool
        self._telemetry = telemetry
        self.path = path
        self._desks: set[Desk] = set()
        self._expected = expected
        self.arrived = asyncio.Event()

    async def __aenter__(self) -> "Owner":
        self._server = await asyncio.start_unix_server(self._meet, self.path, limit=LIMIT)
        self._telling = asyncio.create_task(self._tell())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._telling.cancel()
        self._server.close()
        for desk in list(self._desks):
            desk.close()

    async def figures(self) -> str:
        """The metrics of the engines and of all workers, each with its number."""
        families = Families()
        families.add((await self._telemetry.page(self._pool)).decode(), {})
        texts = await asyncio.gather(*(desk.figures() for desk in self._desks))
        for number, text in enumerate(texts):
            families.add(text, {"worker": str(number)})
        return families.text()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        desk = Desk(self, self._pool, Line(reader, writer))
        self._desks.add(desk)
        if len(self._desks) >= self._expected:
            self.arrived.set()
        try:
            await desk.serve()
        finally:
            self._desks.discard(desk)

    async def _tell(self) -> None:
        told: Letter = {}
        while True:
            loaded = [_loaded_letter(one) for one in self._pool.loaded()]
            now = {"loaded": loaded, "left_alone": self._pool.left_alone()}
            if any(now.values()) or any(told.values()):
                told = now
                for desk in self._desks:
                    desk.line.write(now)
            await asyncio.sleep(TELL_S)


class Desk:
    """What one worker has borrowed. When it goes, all of it comes back."""

    def __init__(self, owner: Owner, pool: Pool, line: Line) -> None:
        self._owner = owner
        self._pool = pool
        self.line = line
        self._leases: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._told: dict[int, asyncio.Future[str]] = {}
        self._numbers = itertools.count()

    async def serve(self) -> None:
        """Until the worker hangs up."""
        try:
            while (letter := await self.line.read()) is not None:
                self._take(letter)
        finally:
            self.close()

    def close(self) -> None:
        """Take everything back."""
        for task in (*self._leases.values(), *self._tasks):
            task.cancel()
        self.line.close()

    async def figures(self) -> str:
        """What the worker counted; nothing when it does not say in time."""
        number = next(self._numbers)
        told = self._told[number] = asyncio.get_running_loop().create_future()
        self.line.write({"tell": number})
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(told, ASK_S)
        return ""

    def _take(self, letter: Letter) -> None:
        match letter["op"]:
            case "lease":
                self._leases[letter["id"]] = asyncio.create_task(self._lend(letter))
            case "release":
                task = self._leases.pop(letter["id"], None)
                if task is not None:
                    task.cancel()
            case "unload":
                self._pool.unload(letter["name"])
            case "figures":
                task = asyncio.create_task(self._answer_figures(letter["id"]))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case "told":
                told = self._told.pop(letter["id"], None)
                if told is not None and not told.done():
                    told.set_result(letter["text"])

    async def _answer_figures(self, number: int) -> None:
        self.line.write({"id": number, "text": await self._owner.figures()})

    async def _lend(self, letter: Letter) -> None:
        number, keep = letter["id"], letter["keep"]
        try:
            async with self._pool.lease(
                letter["name"],
                None if keep is None else float(keep),
                client=letter["client"],
                affinity=letter["affinity"].encode(),
            ) as lease:
                self.line.write(
                    {
                        "id": number,
                        "endpoint": endpoint_letter(lease.endpoint),
                        "profile": lease.profile.to_json(),
                        "waited_s": lease.waited_s,
                    }
                )
                death: EngineFailed = await asyncio.shield(lease.death)
                told = error_letter(death)
                self.line.write({"id": number, "death": told, "base_url": lease.endpoint.base_url})
                await asyncio.Event().wait()  # it is the worker's until it gives it back
        except VllamaError as error:
            self.line.write({"id": number, "error": error_letter(error)})


def _loaded_letter(one: Loaded) -> Letter:
    return {
        "name": one.name, "endpoint": endpoint_letter(one.endpoint),
        "profile": one.profile.to_json(), "expires_in_s": str(one.expires_in_s),
        "users": one.users, "replicas": one.replicas, "waiting": one.waiting,
        "need_bytes": one.need_bytes, "restarts": one.restarts,
    }  # fmt: skip
