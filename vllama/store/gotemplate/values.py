"""Go's values as a template sees them: what is true, and how each is printed."""

import json
from collections.abc import Mapping
from typing import Any


class Record(dict[str, Any]):
    """A Go struct: fields by name. `wire` is its JSON document, which it then prints as."""

    def __init__(self, fields: Mapping[str, Any], wire: Any = None, kind: str = "") -> None:
        super().__init__(fields)
        self.wire, self.kind = wire, kind

    @property
    def text(self) -> str | None:
        return None if self.wire is None else to_json(self.wire)


class Records(list[Any]):
    """A list that prints itself as JSON."""

    @property
    def text(self) -> str:
        return to_json(self)


class Document(dict[str, Any]):
    """A map of a tool call's arguments: ordered, and printed as JSON."""

    @property
    def text(self) -> str:
        return to_json(self)


def is_true(value: Any) -> bool:
    """Go's truth: not the zero value; a struct is always true."""
    return True if isinstance(value, Record) else bool(value)


def printed(value: Any) -> str:
    """A value as `%v` writes it."""
    text = getattr(value, "text", None)
    if isinstance(text, str):
        return text
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e21 else f"{value:g}"
    if isinstance(value, Record):
        return "{" + " ".join(printed(v) for v in value.values()) + "}"
    if isinstance(value, Mapping):
        pairs = (f"{printed(k)}:{printed(v)}" for k, v in sorted(value.items()))
        return f"map[{' '.join(pairs)}]"
    if isinstance(value, list | tuple):
        return f"[{' '.join(printed(v) for v in value)}]"
    return str(value)


def to_json(value: Any) -> str:
    """Go's JSON: compact, `<`, `>` and `&` escaped, whole numbers without a fraction."""
    text = json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    if isinstance(value, Record) and value.wire is not None:
        return _plain(value.wire)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
