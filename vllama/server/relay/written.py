"""How answers are written: JSON as Go writes it, times and media types."""

import functools
import time
from datetime import UTC, datetime
from typing import Any

import msgspec

JSON_UTF8 = b"application/json; charset=utf-8"
JSON = b"application/json"
NDJSON = "application/x-ndjson"
EVENTS = "text/event-stream"
PLAIN = b"text/plain"

_encode = msgspec.json.Encoder().encode


def dump(value: Any) -> bytes:
    """JSON with the characters escaped that Go escapes."""
    return escaped(_encode(value))


def escaped(data: bytes) -> bytes:
    """`<`, `>` and `&` never occur in JSON but inside strings."""
    if b"<" in data or b">" in data or b"&" in data:
        data = data.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")
    return data


def text(value: str) -> bytes:
    """A JSON string."""
    return escaped(_encode(value))


def utc(now_ns: int | None = None) -> str:
    """RFC 3339 with nanoseconds, trailing zeros trimmed."""
    seconds, rest = divmod(time.time_ns() if now_ns is None else now_ns, 1_000_000_000)
    fraction = f".{rest:09d}".rstrip("0").rstrip(".")
    return f"{_second(seconds)}{fraction}Z"


def stamp() -> bytes:
    """The time now for a line of a stream, the same for a millisecond: they come in bursts."""
    return _millisecond(time.time_ns() // 1_000_000)


@functools.lru_cache(4)
def _millisecond(number: int) -> bytes:
    return utc(number * 1_000_000).encode()


@functools.lru_cache(4)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def moment(when: datetime) -> str:
    """A time with its offset, `Z` for none."""
    if when.tzinfo is None:
        when = when.astimezone()
    if when.utcoffset() == datetime.now(UTC).utcoffset():
        return when.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return when.isoformat()
