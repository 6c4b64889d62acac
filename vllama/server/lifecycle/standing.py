"""How well a model's engine has behaved: back-off, parking, and profiles that no longer start.

Pure: the clock is handed in.
"""

from collections import deque

from vllama.errors import VllamaError

WINDOW_S = 300.0
STRIKES = 3
DELAY_S = 1.0
DELAY_MAX_S = 60.0
PARK_S = 60.0
PARK_MAX_S = 600.0


class Standing:
    """The record of one model, which outlives its engines."""

    def __init__(self) -> None:
        self.restarts = 0
        self.sleeps = 0
        self.wakes = 0
        self.failed_wakes = 0
        self.cause: VllamaError | None = None
        self._strikes: deque[float] = deque()
        self._parked_until_s = 0.0
        self._parkings = 0
        self._broken: set[str] = set()

    def strike(self, now_s: float, cause: VllamaError) -> None:
        """An engine has crashed, hung or not started."""
        self.cause = cause
        self.restarts += 1
        self._forget(now_s)
        self._strikes.append(now_s)
        if len(self._strikes) >= STRIKES:
            park_s = min(PARK_MAX_S, PARK_S * 2**self._parkings)
            self._parkings += 1
            self._parked_until_s = now_s + park_s
            self._strikes.clear()

    def parked_s(self, now_s: float) -> float:
        """How long it is still left alone; 0 when it may be started."""
        return max(0.0, self._parked_until_s - now_s)

    def delay_s(self, now_s: float) -> float:
        """How long to wait before the next start: at once after a first crash."""
        self._forget(now_s)
        count = len(self._strikes)
        return min(DELAY_MAX_S, DELAY_S * 2 ** (count - 2)) if count > 1 else 0.0

    def settle(self, lived_s: float) -> None:
        """An engine has lived this long: a long life wipes the record."""
        if lived_s >= WINDOW_S:
            self._strikes.clear()
            self._parkings = 0

    def distrust(self, digest: str) -> None:
        """The profile with this digest no longer starts."""
        self._broken.add(digest)

    def trusts(self, digest: str) -> bool:
        """Whether this profile has not failed to start."""
        return digest not in self._broken

    def _forget(self, now_s: float) -> None:
        while self._strikes and now_s - self._strikes[0] > WINDOW_S:
            self._strikes.popleft()
