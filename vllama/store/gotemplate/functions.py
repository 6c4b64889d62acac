"""The functions that a template may call: Go's own, and Ollama's."""

import html
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from typing import Any
from urllib.parse import quote_plus

from vllama.store.gotemplate.values import Record, is_true, printed, to_json

# Of a verb's flags and width: a template must not fill the memory with spaces.
_WIDEST = 6
LAZY = frozenset({"and", "or"})


def _eq(first: Any, *others: Any) -> bool:
    if not others:
        raise TypeError("missing argument for comparison")
    return any(_same(first, other) for other in others)


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, bool) != isinstance(second, bool) and None not in (first, second):
        raise TypeError("incompatible types for comparison")
    if isinstance(first, str) != isinstance(second, str) and None not in (first, second):
        raise TypeError("incompatible types for comparison")
    return bool(first == second)


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if value is None:
        raise TypeError("len of nil pointer")
    return len(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, str):
            value = value.encode()[key]
        elif value is None:
            raise TypeError("index of untyped nil")
        else:
            if not 0 <= key < len(value):
                raise TypeError(f"index out of range: {key}")
            value = value[key]
    return value


def _slice(value: Any, *bounds: int) -> Any:
    start, end = (*bounds, 0)[0] if bounds else 0, bounds[1] if len(bounds) > 1 else _length(value)
    if not 0 <= start <= end <= _length(value):
        raise TypeError(f"index out of range: {end}")
    return value.encode()[start:end].decode() if isinstance(value, str) else value[start:end]


def _print(*values: Any) -> str:
    """Go puts a space between two operands when neither is a string."""
    text = ""
    for before, value in zip((None, *values), values, strict=False):
        spaced = text and not isinstance(value, str) and not isinstance(before, str)
        text += (" " if spaced else "") + printed(value)
    return text


def _printf(form: str, *values: Any) -> str:
    """The verbs that templates use: %s %v %d %q %f %x %t %c %%, with flags and widths."""
    out, rest, at = [], list(values), 0
    while at < len(form):
        if form[at] != "%":
            out.append(form[at])
            at += 1
            continue
        end = at + 1
        while end < len(form) and form[end] in "+-# 0123456789.":
            end += 1
        verb, flags = form[end : end + 1], form[at + 1 : end]
        if len(flags) > _WIDEST:
            raise ValueError(f"bad width {flags}")
        out.append("%" if verb == "%" else _verb(flags, verb, rest))
        at = end + 1
    return "".join(out)


def _verb(flags: str, verb: str, rest: list[Any]) -> str:
    if not rest:
        return f"%!{verb}(MISSING)"
    value = rest.pop(0)
    if verb in ("d", "f", "e", "g", "x", "X", "c") and not isinstance(value, str):
        return str(f"%{flags}{verb}" % value)
    if verb == "q":
        return f"%{flags}s" % to_json(str(value))
    return f"%{flags.replace('#', '')}s" % printed(value)


def _less(first: Any, second: Any) -> bool:
    if isinstance(first, str) != isinstance(second, str):
        raise TypeError("incompatible types for comparison")
    return bool(first < second)


def _typescript(kind: Any) -> str:
    """A JSON schema's property as TypeScript writes its type."""
    if isinstance(kind, Record):
        kind = kind.wire
    if isinstance(kind, Mapping):
        if kind.get("anyOf"):
            return " | ".join(_typescript(each) for each in kind["anyOf"])
        kind = kind.get("type")
    kinds = [kind] if isinstance(kind, str) else list(kind or [])
    return " | ".join(_TYPESCRIPT.get(str(k), "any") for k in kinds) or "any"


_TYPESCRIPT = {
    "string": "string", "number": "number", "integer": "number", "boolean": "boolean",
    "array": "any[]", "object": "Record<string, any>", "null": "null",
}  # fmt: skip
_PLAIN: dict[str, Callable[..., Any]] = {
    "not": lambda value: not is_true(value),
    "eq": _eq,
    "ne": lambda first, second: not _same(first, second),
    "lt": _less,
    "le": lambda first, second: not _less(second, first),
    "gt": lambda first, second: _less(second, first),
    "ge": lambda first, second: not _less(first, second),
    "len": _length,
    "index": _index,
    "slice": _slice,
    "print": _print,
    "println": lambda *values: " ".join(printed(v) for v in values) + "\n",
    "printf": _printf,
    "html": lambda *values: html.escape(_print(*values)).replace("&#x27;", "&#39;"),
    "js": lambda *values: to_json(_print(*values))[1:-1],
    "urlquery": lambda *values: quote_plus(_print(*values)),
    "json": to_json,
    "toTypeScriptType": _typescript,
}
NAMES = frozenset(_PLAIN) | LAZY | {"currentDate", "yesterdayDate"}


def table(today: date) -> dict[str, Callable[..., Any]]:
    """All functions but those that need not look at all their arguments."""
    dates = {
        "currentDate": lambda *_: today.isoformat(),
        "yesterdayDate": lambda *_: (today - timedelta(days=1)).isoformat(),
    }
    return {**_PLAIN, **dates}
