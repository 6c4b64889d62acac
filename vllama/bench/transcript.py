"""What one request brought: bytes as they were read and when, taken apart after the load.

Nothing is parsed while the clock runs: the client must not be what is measured.
"""

from collections.abc import Sequence
from typing import Protocol

from vllama import durations

REFUSED = "refused"
RESET = "reset"
TIMEOUT = "timeout"
MALFORMED = "malformed"
CUT_SHORT = "cut-short"
SERVER_ERROR = "server-error"
Headers = Sequence[tuple[bytes, bytes]]


class Pending(Protocol):
    """Reads whose HTTP framing has not been taken off yet."""

    def unpack(self, transcript: "Transcript") -> None:
        """Put their bodies into `transcript.times` and `.pieces`."""
        ...


class Transcript:
    """The answer to one request: pieces of its body, each with the time of its arrival."""

    __slots__ = ("_pending", "_pieces", "_times", "error", "retry_after_s", "sent_s", "status")

    def __init__(self) -> None:
        self.sent_s = 0.0
        self.status = 0
        self.retry_after_s = 0.0
        self.error: str | None = None
        self._times: list[float] = []
        self._pieces: list[bytes] = []
        self._pending: Pending | None = None

    def head(self, status: int, headers: Headers) -> None:
        """The status line and headers (names in lower case) have come."""
        self.status = status
        if status != 200:
            self.error = f"http-{status}"
            told = dict(headers).get(b"retry-after", b"").decode("latin-1")
            self.retry_after_s = durations.retry_after_s(told) or 0.0

    def put(self, piece: bytes, arrived_s: float) -> None:
        """A piece of the body."""
        self._times.append(arrived_s)
        self._pieces.append(piece)

    def later(self, pending: Pending) -> None:
        """The rest is taken apart when somebody asks for it."""
        self._pending = pending

    @property
    def times(self) -> list[float]:
        """When each piece arrived."""
        self.unpack()
        return self._times

    @property
    def pieces(self) -> list[bytes]:
        """The body, as it came."""
        self.unpack()
        return self._pieces

    @property
    def body(self) -> bytes:
        """All that came."""
        return b"".join(self.pieces)

    def unpack(self) -> None:
        """Take apart what was put off; may find an `error`."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.unpack(self)
