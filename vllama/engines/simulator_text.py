"""The simulator's language: words that are one token each, and answers by script."""

import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VOCABULARY = 32_000
_WORDS = (
    "the", "of", "light", "sky", "and", "to", "blue", "in", "air", "is", "short", "wave", "that",
    "sun", "for", "as", "sea", "with", "far", "on", "deep", "by", "this", "red", "from", "at",
    "when", "it", "bends", "we", "see", "more",
)  # fmt: skip
_PIECE = re.compile(r"\s*\w{1,8}|\s*[^\w\s]|\s+")


def words(seed: int, count: int) -> list[str]:
    """`count` words, each one token when it stands in a text; the same seed, the same words."""
    made, state = [], seed or 1
    for _ in range(count):
        state = (state * 1103515245 + 12345) % 2**31
        made.append(_WORDS[(state >> 8) % len(_WORDS)] + " ")
    return made


def split(text: str) -> list[str]:
    """A text's tokens."""
    return _PIECE.findall(text)


def ids(text: str) -> list[int]:
    """A text's tokens as numbers."""
    return [zlib.crc32(piece.encode()) % VOCABULARY for piece in split(text)]


def rendered(messages: list[dict[str, Any]]) -> str:
    """A conversation as the prompt that the model would get."""
    parts = []
    for message in messages:
        content = message.get("content") or ""
        if isinstance(content, list):
            content = " ".join(str(part.get("text", "")) for part in content)
        parts.append(f"{message.get('role', 'user')}: {content}\n")
    return "".join(parts) + "assistant:"


@dataclass(frozen=True, slots=True)
class Scripted:
    """What to answer to a prompt that contains `match`.

    `deltas` are sent as they are, one chunk each, instead of the content word by word;
    `status` and `error` refuse the request.
    """

    match: str = ""
    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    finish_reason: str = ""
    deltas: tuple[dict[str, Any], ...] = ()
    status: int = 0
    error: Any = None


class Script:
    """Answers by what the prompt contains; the first that matches counts."""

    def __init__(self, answers: list[Scripted]) -> None:
        self._answers = answers

    @classmethod
    def read(cls, path: str) -> "Script":
        """A JSON file: a list of objects with the fields of `Scripted`; no path, no script."""
        if not path:
            return cls([])
        document: list[dict[str, Any]] = json.loads(Path(path).read_text(encoding="utf-8"))
        sequences = ("tool_calls", "deltas")
        for answer in document:
            answer |= {key: tuple(answer[key]) for key in sequences if key in answer}
        return cls([Scripted(**answer) for answer in document])

    def answer_to(self, prompt: str) -> Scripted | None:
        """The answer for `prompt`, if the script has one."""
        return next((a for a in self._answers if a.match in prompt), None)
