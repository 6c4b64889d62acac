"""Prompts from a JSONL file: ShareGPT's conversations, chat messages, or plain prompts."""

import json
from pathlib import Path
from typing import Any

from vllama.errors import UsageError

_PLAIN = ("prompt", "text", "question", "instruction", "content")


def texts(path: Path) -> tuple[str, ...]:
    """The first thing that a person says in every line.

    Raises:
        UsageError: no such file, or a line that holds no prompt; says which line.
    """
    found = []
    try:
        with path.open() as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    found.append(_text(json.loads(line), f"{path}, line {number}"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is no file of prompts: {error}") from error
    if not found:
        raise UsageError(f"{path} holds no prompt")
    return tuple(found)


def _text(entry: Any, where: str) -> str:
    if isinstance(entry, str):
        return entry
    if isinstance(entry, dict):
        for key in ("conversations", "messages"):
            for turn in entry.get(key) or ():
                if turn.get("from", turn.get("role")) in ("human", "user"):
                    return str(turn.get("value", turn.get("content")))
        for key in _PLAIN:
            if isinstance(entry.get(key), str):
                return str(entry[key])
    raise UsageError(
        f"{where}: no prompt", f"A line is a text, or has one of: conversations, {_PLAIN}."
    )
