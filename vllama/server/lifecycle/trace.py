"""What there is to say of one request once it is over, and who wants to hear it."""

import time
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Protocol

# Upper bounds of the gaps between reads of a stream, in seconds.
GAPS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


@dataclass(slots=True)
class Trace:
    """One request to an engine. Times in seconds on the clock of `time.monotonic`.

    `outcome` is `ok`, `refused` (by the engine), `failed` (before anything had left),
    `broken` (after), or `left` (the client did, in `phase`).
    """

    model: str
    began_s: float = field(default_factory=time.monotonic)
    leased_s: float = 0.0
    first_s: float = 0.0
    ended_s: float = 0.0
    outcome: str = "left"
    attempts: int = 0
    status: int = 0
    error: str = ""
    gaps: list[int] = field(default_factory=lambda: [0] * (len(GAPS_S) + 1))
    gaps_s: float = 0.0
    _read_s: float = 0.0

    @property
    def phase(self) -> str:
        """How far it came: `queue`, `prefill` or `decode`."""
        return "queue" if not self.leased_s else "decode" if self.first_s else "prefill"

    def leased(self) -> None:
        """An engine is there for it."""
        self.leased_s = time.monotonic()
        self.attempts += 1

    def read(self) -> None:
        """Some of the answer has come. Called for each read of a stream, so it is cheap."""
        now_s = time.monotonic()
        if self.first_s:
            gap_s = now_s - self._read_s
            self.gaps[bisect_left(GAPS_S, gap_s)] += 1
            self.gaps_s += gap_s
        else:
            self.first_s = now_s
        self._read_s = now_s

    def end(self, outcome: str, status: int, error: str = "") -> None:
        """How it ended."""
        self.outcome, self.status, self.error = outcome, status, error


class Observer(Protocol):
    """Hears of every request that is over."""

    def answered(self, trace: Trace) -> None:
        """One is over; must not raise."""
        ...


class Noter(Protocol):
    """Is shown every exchange that is over, to note what its request was like."""

    def seen(self, exchange: object, trace: Trace) -> None:
        """One is over; must not raise."""
        ...


class Deaf:
    """Hears nothing."""

    def answered(self, trace: Trace) -> None:
        """Forget it."""
