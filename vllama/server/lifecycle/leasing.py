"""One lease: from asking for an engine to giving it back."""

from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from vllama.server.lifecycle.replicas import Replica
from vllama.server.lifecycle.runner import Lease, Runner


class Lender(Protocol):
    """Who has the engines."""

    def enter(self, name: str, keep_alive_s: float | None) -> Runner:
        """One more user of that model's engines, until `leave`."""
        ...

    def leave(self, runner: Runner) -> None:
        """One user less."""
        ...

    async def pend(self, runner: Runner, ready: Awaitable[None]) -> None:
        """Wait for an engine or a turn, as one of not too many."""
        ...


class Leasing(AbstractAsyncContextManager[Lease]):
    """One lease, from asking to giving back; made for each request, and so no generator."""

    __slots__ = ("_affinity", "_client", "_keep_alive_s", "_lender", "_name", "_replica", "_runner")

    def __init__(
        self, lender: Lender, name: str, keep_alive_s: float | None, client: str, affinity: bytes
    ) -> None:
        self._lender = lender
        self._name = name
        self._keep_alive_s = keep_alive_s
        self._client = client
        self._affinity = affinity
        self._runner: Runner
        self._replica: Replica

    async def __aenter__(self) -> Lease:
        lender = self._lender
        runner = self._runner = lender.enter(self._name, self._keep_alive_s)
        try:
            self._replica, lease = await runner.begin(self._client, self._affinity, lender.pend)
        except BaseException:
            lender.leave(runner)
            raise
        return lease

    async def __aexit__(self, *_: object) -> None:
        self._runner.finish(self._replica)
        self._lender.leave(self._runner)
