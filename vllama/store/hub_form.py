"""Ollama's messages and tools in the form that the hub's chat templates are written for.

Whoever renders, an engine or we, gets this form, so that the prompt is the same.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

# Mistral's templates refuse a call whose id has not nine letters or digits.
_WANTS_NINE = re.compile(r"length\s*[!=]=\s*9\b")
_NINE = re.compile(r"[A-Za-z0-9]{9}")


def linked(messages: Sequence[Mapping[str, Any]], template: str = "") -> list[dict[str, Any]]:
    """The same messages; calls have ids and a type, and a tool's answer names its call.

    Ollama's clients need not send any of these: an answer then belongs to the first call of its
    tool's name that has none yet. Ids are equal for equal messages, so prompts can be cached.
    """
    form = _nine if _WANTS_NINE.search(template) else str
    waiting: list[tuple[str, str]] = []
    found, count = [], 0
    for message in messages:
        told = dict(message)
        if told.get("tool_calls"):
            told["tool_calls"] = [
                _call(c, count + i, form) for i, c in enumerate(told["tool_calls"])
            ]
            count += len(told["tool_calls"])
            waiting = [(c["function"]["name"], c["id"]) for c in told["tool_calls"]]
        elif told.get("role") == "tool":
            given = told.get("tool_call_id")
            told["tool_call_id"] = form(given) if given else _answered(waiting, told)
        found.append(told)
    return found


def tool(given: Mapping[str, Any]) -> dict[str, Any]:
    """A tool with every field that templates name, so that no engine fills in its own."""
    function = given.get("function") or {}
    return {
        "type": "function",
        "function": {
            "name": function.get("name") or "",
            "description": function.get("description") or "",
            "parameters": function.get("parameters") or {"type": "object", "properties": {}},
        },
    }


def switches(think: bool | str | None) -> dict[str, Any]:
    """What turns thinking on or off: each family has its own name for it, and ignores others."""
    if think is None:
        return {}
    found: dict[str, Any] = {"enable_thinking": bool(think), "thinking": bool(think)}
    return found | ({"reasoning_effort": effort(think)} if isinstance(think, str) else {})


def effort(level: str) -> str:
    """The level by the hub's names: there is none above `high`."""
    return "high" if level == "max" else level


def _call(given: Mapping[str, Any], position: int, form: Any) -> dict[str, Any]:
    function = given.get("function") or {}
    return {
        "id": form(given.get("id") or f"call_{position}"),
        "type": "function",
        "function": {
            "name": function.get("name") or "",
            "arguments": function.get("arguments") or {},
        },
    }


def _answered(waiting: list[tuple[str, str]], message: Mapping[str, Any]) -> str:
    """The id of the call that this answers; it waits no more."""
    name = message.get("tool_name") or ""
    of_name = [each for each in waiting if each[0] == name] or waiting
    if not of_name:
        return str(name)
    waiting.remove(of_name[0])
    return of_name[0][1]


def _nine(text: str) -> str:
    return text if _NINE.fullmatch(text) else hashlib.sha256(text.encode()).hexdigest()[:9]
