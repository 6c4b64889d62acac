"""Turns: so many may work at once, and the rest queue fairly among the clients they come from."""

import asyncio
from collections import deque


class Turns:
    """A limit with a queue. `limit` 0 is none.

    Clients take turns in the queue, so that one who sends a thousand requests does not make
    another, who sends one, wait for all of them.
    """

    def __init__(self, limit: int = 0) -> None:
        self._limit = limit
        self._taken = 0
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}

    @property
    def waiting(self) -> int:
        """How many are queued."""
        return sum(len(queue) for queue in self._queues.values())

    @property
    def limit(self) -> int:
        """How many may work at once."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = limit
        self._admit()

    def took(self) -> bool:
        """Take a turn if one is free now."""
        is_free = not self._limit or (self._taken < self._limit and not self._queues)
        self._taken += is_free
        return is_free

    async def take(self, client: str = "") -> None:
        """Wait for a turn of this client."""
        if self.took():
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(client, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give()  # it was granted in the same moment
            else:
                self._drop(client, turn)
            raise

    def give(self) -> None:
        """The turn is over."""
        self._taken -= 1
        self._admit()

    def _admit(self) -> None:
        while self._queues and (not self._limit or self._taken < self._limit):
            client, queue = next(iter(self._queues.items()))
            turn = queue.popleft()
            # To the back of the line, behind all other clients.
            del self._queues[client]
            if queue:
                self._queues[client] = queue
            if not turn.done():
                self._taken += 1
                turn.set_result(None)

    def _drop(self, client: str, turn: "asyncio.Future[None]") -> None:
        queue = self._queues.get(client)
        if queue is not None and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._queues[client]
