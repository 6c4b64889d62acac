"""Go's durations, as Ollama's users write them: `5m`, `1.5h`, `2h45m`, `-1s`; HTTP's waits."""

import math
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_UNIT_S = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)([a-zµμ]*)")
FOREVER = math.inf


def parse(text: str) -> float:
    """Seconds of a Go duration such as `1h15m30.918s`.

    Raises:
        ValueError: with the text of Go's `time.ParseDuration`.
    """
    body = text[1:] if text[:1] in "+-" else text
    sign = -1.0 if text.startswith("-") else 1.0
    if body == "0":
        return 0.0
    total, position = 0.0, 0
    while position < len(body):
        match = _PART.match(body, position)
        if match is None:
            raise ValueError(f'time: invalid duration "{text}"')
        number, unit = match.groups()
        if not unit:
            raise ValueError(f'time: missing unit in duration "{text}"')
        if unit not in _UNIT_S:
            raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
        total += float(number) * _UNIT_S[unit]
        position = match.end()
    if not body:
        raise ValueError(f'time: invalid duration "{text}"')
    return sign * total


def parse_lifetime(text: str) -> float:
    """Seconds of a keep-alive: a Go duration or whole seconds; negative is `FOREVER`."""
    seconds = float(text) if re.fullmatch(r"[+-]?\d+", text) else parse(text)
    return FOREVER if seconds < 0 else seconds


def retry_after_s(text: str) -> float | None:
    """Seconds of a Retry-After, which says so many or a date; None when it is neither."""
    if text.isdigit():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    # A date without a zone is meant in UTC, as all of HTTP's.
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
