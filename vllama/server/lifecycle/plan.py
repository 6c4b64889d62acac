"""Plans: how to bring up a model, with what to fall back on when its profile no longer starts."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from vllama.engines.engine import Engine
from vllama.profile import Profile


@dataclass(frozen=True, slots=True)
class Start:
    """One engine with one profile."""

    engine: Engine
    profile: Profile


@dataclass(frozen=True, slots=True)
class Plan:
    """How to bring up one model.

    `starts` are tried in this order until one answers. `replicas` are environments, one for
    each process that is to run beside the others (a GPU each). `others` are started as they
    are, each a replica, instead of `starts`: engines that somebody else runs. `need_bytes`
    is the memory that one start takes, 0 when that is unknown or somebody else's.
    """

    starts: tuple[Start, ...]
    others: tuple[Start, ...] = ()
    replicas: tuple[Mapping[str, str], ...] = field(default_factory=lambda: ({},))
    need_bytes: int = 0

    @property
    def is_ours(self) -> bool:
        """Whether vllama starts and stops what serves it."""
        return not self.others

    @property
    def whole_bytes(self) -> int:
        """The memory that all replicas take together."""
        return self.need_bytes * len(self.members())

    def members(self) -> list[tuple[Start, ...]]:
        """For each replica, what to try in turn."""
        if self.others:
            return [(other,) for other in self.others]
        return [
            tuple(_in(start, environment) for start in self.starts) for environment in self.replicas
        ]


class Choose(Protocol):
    """Knows how to bring up models."""

    def key(self, name: str) -> str:
        """The one name for all names of a model; cheap."""
        ...

    def plan(self, key: str) -> Plan:
        """How to bring it up.

        Raises:
            VllamaError: it is not there, or nothing here can serve it.
        """
        ...


def _in(start: Start, environment: Mapping[str, str]) -> Start:
    if not environment:
        return start
    merged = {**start.profile.environment, **environment}
    return Start(start.engine, replace(start.profile, environment=merged))


def concurrency(profile: Profile) -> int:
    """How many requests an engine with this profile works on at once; 0 when it does not say."""
    for option in ("max_num_seqs", "n_parallel"):
        value = profile.options.get(option)
        if isinstance(value, int) and value > 0:
            copies = profile.options.get("data_parallel_size", 1)
            return value * (copies if isinstance(copies, int) and copies > 0 else 1)
    return 0
