"""Sizes, times and tables as Ollama prints them."""

import math
from collections.abc import Sequence
from datetime import datetime

_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "KB"))
_GAP = "    "


def size(count: int) -> str:
    """Bytes in decimal units: `2.0 GB`, `669 MB`, `45 B`."""
    for unit, name in _UNITS:
        if count >= unit:
            value = count / unit
            return f"{int(value)} {name}" if value >= 10 else f"{value:.1f} {name}"
    return f"{count} B"


def span(seconds: float) -> str:
    """A length of time in words: `About a minute`, `3 weeks`."""
    whole, minutes, hours = int(seconds), int(seconds / 60), math.floor(seconds / 3600 + 0.5)
    steps = (
        (whole < 1, "Less than a second"),
        (whole == 1, "1 second"),
        (whole < 60, f"{whole} seconds"),
        (minutes == 1, "About a minute"),
        (minutes < 60, f"{minutes} minutes"),
        (hours == 1, "About an hour"),
        (hours < 48, f"{hours} hours"),
        (hours < 24 * 14, f"{hours // 24} days"),
        (hours < 24 * 60, f"{hours // 24 // 7} weeks"),
        (hours < 24 * 730, f"{hours // 24 // 30} months"),
    )
    return next(
        (text for holds, text in steps if holds), f"{int(seconds / 3600) // 24 // 365} years"
    )


def moment(then: str, now: datetime, never: str = "Never") -> str:
    """When something was or will be: `3 weeks ago`, `4 minutes from now`, `Forever`."""
    when = timestamp(then)
    if when is None or when.year <= 1:
        return never
    seconds = (now - when).total_seconds()
    if seconds < -20 * 365 * 86400:
        return "Forever"
    return f"{span(-seconds)} from now" if seconds < 0 else f"{span(seconds)} ago"


def timestamp(text: str) -> datetime | None:
    """A time of the API, whose fraction may have nine digits."""
    head, dot, rest = text.partition(".")
    if dot:
        digits = len(rest) - len(rest.lstrip("0123456789"))
        text = f"{head}.{rest[: min(digits, 6)]}{rest[digits:]}"
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest text, four spaces apart."""
    lines = [header, *rows] if header else list(rows)
    widths = [max(len(row[i]) for row in lines) for i in range(len(lines[0]))] if lines else []
    return "\n".join(
        "".join(text.ljust(width) + _GAP for text, width in zip(row, widths, strict=True))
        for row in lines
    )
