"""What the simulator does wrong on purpose, switched by its options."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from vllama.errors import EngineFailed
from vllama.profile import Scalar

PREFIX = "fault_"
PHASES = ("load", "profile", "graph", "run")


@dataclass(frozen=True, slots=True)
class Faults:
    """Each is an option `fault_NAME`; zero and empty mean that it does not happen.

    `out_of_memory` names the phase of a start, or `run` for the first request; `start` is
    `exit`, `exit0` (dies with status 0, as vLLM does), `hang` (silent for ever) or
    `unhealthy` (talks for ever) or `fatal` (says what no engine survives, and hangs).
    `taken_port` is a file: where it is not there yet, it is made, and the port found taken.
    `orphan` leaves a grandchild that ignores SIGTERM. `wake` is `refuse` or `die`: what it does
    when it is woken.
    `*_after` count requests, `*_after_tokens` output tokens over all requests.
    `status` with `status_first` (that many requests) or `status_every` (each n-th) answers
    so. `malformed_chunk` and `cut_after` count the tokens of a stream. `usage` is `missing`,
    `double` or `off_by_one`. `noise` and `start_noise` are relative deviations, of each step
    and of each start; `drift_per_hour` slows by that share.
    """

    out_of_memory: str = ""
    start: str = ""
    start_s: float = 0.0
    taken_port: str = ""
    hang_after: int = 0
    hang_after_tokens: int = 0
    crash_after: int = 0
    crash_after_tokens: int = 0
    crash_status: int = 0
    status: int = 0
    status_first: int = 0
    status_every: int = 0
    retry_after: str = ""
    malformed_chunk: int = 0
    cut_after: int = 0
    usage: str = ""
    chunk_tokens: int = 1
    empty_chunks: bool = False
    close_after_stream: bool = False
    ignore_sigterm: bool = False
    orphan: bool = False
    wake: str = ""
    noise: float = 0.0
    start_noise: float = 0.0
    drift_per_hour: float = 0.0

    @classmethod
    def names(cls) -> frozenset[str]:
        """The options' names."""
        return frozenset(PREFIX + field.name for field in fields(cls))

    @classmethod
    def of(cls, options: Mapping[str, Scalar]) -> "Faults":
        """Those that the options switch on."""
        defaults: dict[str, Any] = {f.name: f.default for f in fields(cls)}
        given: dict[str, Any] = {
            name: type(default)(options[PREFIX + name])
            for name, default in defaults.items()
            if PREFIX + name in options
        }
        return cls(**given)

    def refuses(self, number: int) -> bool:
        """Whether the `number`th request (from 1) is answered with `status`."""
        if not self.status:
            return False
        if self.status_every:
            return number % self.status_every == 0
        return number <= self.status_first if self.status_first else True

    def breaks_start(self, phase: str) -> None:
        """Fail where the start is at.

        Raises:
            EngineFailed: it is the phase to run out of memory in.
        """
        if self.out_of_memory == phase:
            raise EngineFailed(
                f"CUDA out of memory in phase {phase}. Tried to allocate 2.00 GiB.",
                kind="out_of_memory",
                phase=phase,
            )
