"""Trial: one configuration that was tried, measured or failed."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias

import msgspec

from vllama.bench.continuation import Continuation
from vllama.bench.measurement import Measurement
from vllama.profile import Scalar

# The phase of what the engine refused before any start, and the origin of what was measured on
# the start of another.
DRY_RUN, LIVE = "dry_run", "live"
State: TypeAlias = Literal["complete", "infeasible", "failed", "pruned"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why it counts as failed or infeasible; `kind` as of `EngineFailed`, or `slo`."""

    kind: str
    message: str
    phase: str = ""


@dataclass(frozen=True, slots=True)
class Trial:
    """One try. `options` are those that differ from the engine's default.

    `infeasible` was measured and breaks a limit, `pruned` was stopped early because it could
    not win, `failed` never gave a measurement. `start_s` is what its start cost, `seconds`
    the whole trial. `origin` says who proposed it (`default`, `seed`, `search`, `control`, `live`).
    `effective` are the values of the knobs that the engine said it would work with. `said` is
    how the default continued the text of the accuracy gate.
    """

    number: int
    options: Mapping[str, Scalar]
    state: State
    measurements: Mapping[str, Measurement] = field(default_factory=dict)
    failure: Failure | None = None
    seconds: float = 0.0
    start_s: float = 0.0
    facts: Mapping[str, Scalar] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    origin: str = "search"
    started_at: datetime | None = None
    ended_at: datetime | None = None
    effective: Mapping[str, Scalar] = field(default_factory=dict)
    said: tuple[Continuation, ...] = ()

    @property
    def complete(self) -> bool:
        """Measured in full, and within every limit."""
        return self.state == "complete"

    @property
    def refused(self) -> bool:
        """The engine said beforehand that it would not start; nothing was started."""
        return self.failure is not None and self.failure.phase == DRY_RUN

    @property
    def has_own_start(self) -> bool:
        """An engine was started for it, and not for another."""
        return (self.origin != LIVE or self.start_s > 0) and not self.refused

    def to_json(self) -> dict[str, Any]:
        """The document that `from_json` reads."""
        times = {
            key: None if at is None else at.isoformat()
            for key, at in (("started_at", self.started_at), ("ended_at", self.ended_at))
        }
        return {**asdict(self), **times}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Trial":
        """Read what `to_json` wrote."""
        return msgspec.convert(document, cls)


def same_options(one: Mapping[str, Scalar], other: Mapping[str, Scalar]) -> bool:
    """Whether both launch the same; `True` and `1` are different settings."""
    return key(one) == key(other)


def key(options: Mapping[str, Scalar]) -> str:
    """Equal for equal options, in any order."""
    return repr(sorted((name, type(value).__name__, value) for name, value in options.items()))


def in_words(options: Mapping[str, Scalar]) -> str:
    """`max_num_seqs=32 dtype=auto`, or `default`."""
    return " ".join(f"{k}={v}" for k, v in options.items()) or "default"
