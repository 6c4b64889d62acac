"""Whether one more engine may sleep in the host's memory, and who must be stopped. Pure."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

# Of the host's memory, what sleepers must leave free.
RESERVE = 0.10


class Asleep(Protocol):
    """An engine that sleeps: since when, and what of the host's memory it takes."""

    @property
    def host_bytes(self) -> float: ...

    @property
    def since_s(self) -> float: ...


S = TypeVar("S", bound=Asleep)


def make(
    host_bytes: float, sleepers: Sequence[S], *, free_bytes: float, reserve_bytes: float
) -> list[S] | None:
    """Who must be stopped so that one more that takes `host_bytes` can sleep; None: it cannot.

    Those who have slept longest go first: they are the least likely to be asked for.
    """
    lacking = host_bytes + reserve_bytes - free_bytes
    stopped: list[S] = []
    for each in _longest_first(sleepers):
        if lacking <= 0:
            break
        stopped.append(each)
        lacking -= each.host_bytes
    return stopped if lacking <= 0 else None


def relieve(sleepers: Sequence[S], *, free_bytes: float, reserve_bytes: float) -> S | None:
    """Who is to be stopped because others need the host's memory."""
    if free_bytes >= reserve_bytes:
        return None
    return next(iter(_longest_first(sleepers)), None)


def _longest_first(sleepers: Sequence[S]) -> list[S]:
    return sorted(sleepers, key=lambda each: each.since_s)
