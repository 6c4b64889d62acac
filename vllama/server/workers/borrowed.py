"""The pool as a worker process sees it: every lease is borrowed from the owner of the engines.

What a request costs for each token is paid in the worker; the owner is asked twice for each
request, so that queues, turns and keep-alives are the same for all workers.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from vllama.errors import EngineFailed
from vllama.profile import Profile
from vllama.server.lifecycle.member import Unavailable
from vllama.server.lifecycle.plan import Plan
from vllama.server.lifecycle.pool import Loaded, Pool
from vllama.server.lifecycle.runner import Lease
from vllama.server.telemetry.metrics import Telemetry
from vllama.server.workers.letters import Letter, Line, endpoint_of, error_of
from vllama.uplink import UplinkPool


class _Elsewhere:
    """Names and engines are the owner's business: a worker passes names on as they are."""

    def key(self, name: str) -> str:
        return name

    def plan(self, key: str) -> Plan:
        raise EngineFailed(f"{key} can only be started by the owner of the engines")


class Borrowed(Pool):
    """Leases from the owner at the other end of `line`."""

    def __init__(self, line: Line, telemetry: Telemetry) -> None:
        super().__init__(_Elsewhere(), observer=telemetry)
        self._line = line
        self._telemetry = telemetry
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Letter]] = {}
        self._deaths: dict[int, asyncio.Future[EngineFailed]] = {}
        self._uplinks: dict[str, UplinkPool] = {}
        self._loaded: list[Loaded] = []
        self._left_alone: list[str] = []

    @asynccontextmanager
    async def lease(
        self,
        name: str,
        keep_alive_s: float | None = None,
        *,
        client: str = "",
        affinity: bytes = b"",
    ) -> AsyncIterator[Lease]:
        """As the owner's pool gives it."""
        number = next(self._numbers)
        death: asyncio.Future[EngineFailed] = asyncio.get_running_loop().create_future()
        self._deaths[number] = death
        try:
            given = await self._ask(
                number, op="lease", name=name, client=client,
                keep=None if keep_alive_s is None else str(keep_alive_s),
                affinity=affinity.decode("utf-8", "replace"),
            )  # fmt: skip
            endpoint = endpoint_of(given["endpoint"])
            uplinks = self._uplinks.get(endpoint.base_url)
            if uplinks is None:
                uplinks = self._uplinks[endpoint.base_url] = UplinkPool(endpoint.base_url)
            profile = Profile.from_json(given["profile"])
            yield Lease(endpoint, uplinks, profile, given["waited_s"], death)
        finally:
            del self._deaths[number]
            self._line.write({"op": "release", "id": number})

    def unload(self, name: str) -> None:
        """Ask the owner to let it go."""
        self._line.write({"op": "unload", "name": name})

    def loaded(self) -> list[Loaded]:
        """As the owner told last."""
        return self._loaded

    def left_alone(self) -> list[str]:
        """As the owner told last."""
        return self._left_alone

    async def figures(self) -> bytes:
        """The metrics of all workers and engines."""
        answer = await self._ask(next(self._numbers), op="figures")
        return str(answer["text"]).encode()

    async def listen(self) -> None:
        """Hear the owner until it is gone."""
        while (letter := await self._line.read()) is not None:
            if "loaded" in letter:
                self._loaded = [_loaded(each) for each in letter["loaded"]]
                self._left_alone = letter["left_alone"]
            elif "tell" in letter:
                text = self._telemetry.own().decode()
                self._line.write({"op": "told", "id": letter["tell"], "text": text})
            elif "death" in letter:
                self._died(letter)
            elif (asked := self._asked.pop(letter["id"], None)) and not asked.done():
                asked.set_result(letter)
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_exception(Unavailable("vllama is stopping"))

    def _died(self, letter: Letter) -> None:
        death = self._deaths.get(letter["id"])
        gone = error_of(letter["death"])
        if death is not None and not death.done() and isinstance(gone, EngineFailed):
            death.set_result(gone)
        uplinks = self._uplinks.pop(letter["base_url"], None)
        if uplinks is not None:
            uplinks.close()

    async def _ask(self, number: int, **letter: object) -> Letter:
        answer: asyncio.Future[Letter] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        self._line.write({"id": number, **letter})
        try:
            given = await answer
        finally:
            self._asked.pop(number, None)
        if "error" in given:
            raise error_of(given["error"])
        return given


def _loaded(letter: Letter) -> Loaded:
    return Loaded(
        **{
            **letter,
            "endpoint": endpoint_of(letter["endpoint"]),
            "profile": Profile.from_json(letter["profile"]),
            "expires_in_s": float(letter["expires_in_s"]),
        }
    )
