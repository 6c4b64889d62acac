"""The engines that serve one model beside each other, and which of them takes a request."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from vllama.engines.engine import Endpoint
from vllama.errors import EngineFailed, VllamaError
from vllama.profile import Profile
from vllama.server.lifecycle.plan import concurrency
from vllama.uplink import UplinkPool

# How much busier the replica that knows a prefix may be than the idlest one.
SLACK = 4


@dataclass(eq=False, slots=True)
class Replica:
    """One engine that answers; `running` is how many requests it has."""

    endpoint: Endpoint
    uplinks: UplinkPool
    profile: Profile
    death: "asyncio.Future[EngineFailed]"
    running: int = 0
    seed: bytes = field(default=b"")

    @property
    def limit(self) -> int:
        """How many requests it takes: what it works on at once, and the next few; 0 is any."""
        works = concurrency(self.profile)
        return works + max(2, works // 4) if works else 0


class Fleet:
    """The replicas of one model. Empty while none answers."""

    def __init__(self) -> None:
        self.replicas: list[Replica] = []
        self._waiters: set[asyncio.Future[None]] = set()

    async def answering(self) -> None:
        """Wait until one answers.

        Raises:
            VllamaError: none will; what `refuse` was told.
        """
        while not self.replicas:
            news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(news)
            try:
                await news
            finally:
                self._waiters.discard(news)

    def add(self, replica: Replica) -> None:
        """One more answers."""
        self.replicas.append(replica)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def remove(self, replica: Replica, cause: EngineFailed) -> None:
        """It answers no more: whoever uses it hears why, its connections are dropped."""
        if replica in self.replicas:
            self.replicas.remove(replica)
        if not replica.death.done():
            replica.death.set_result(cause)
        replica.uplinks.close()

    def refuse(self, error: VllamaError) -> None:
        """Tell all who wait that none will answer."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(error)

    @property
    def limit(self) -> int:
        """How many requests all of them take; 0 is any number."""
        limits = [replica.limit for replica in self.replicas]
        return sum(limits) if all(limits) else 0

    def pick(self, affinity: bytes = b"") -> Replica:
        """The one to take a request: where its prefix is known unless others are much idler."""
        return pick(self.replicas, affinity)


def pick(replicas: Sequence[Replica], affinity: bytes) -> Replica:
    """The least loaded replica, or the one that `affinity` always leads to if it is not busy."""
    if len(replicas) == 1:
        return replicas[0]
    idlest = min(replicas, key=lambda replica: replica.running)
    if not affinity:
        return idlest
    # Rendezvous hashing: one that goes takes only its own prefixes along.
    home = max(replicas, key=lambda r: hashlib.blake2b(r.seed + affinity, digest_size=8).digest())
    return home if home.running - idlest.running <= SLACK else idlest
