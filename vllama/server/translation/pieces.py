"""Pieces: what an engine's answer is made of, whoever asked and whoever answers."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Piece:
    """Some of an answer. `calls` are Ollama's tool calls, their arguments an object."""

    text: str = ""
    thinking: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    choice: int = 0

    def __bool__(self) -> bool:
        return bool(self.text or self.thinking or self.calls or self.logprobs)

    def add(self, other: "Piece") -> None:
        """Take in what follows."""
        self.text += other.text
        self.thinking += other.thinking
        self.calls += other.calls
        self.logprobs += other.logprobs


@dataclass(slots=True)
class Tally:
    """How an answer ended and what it cost. Times in nanoseconds, 0 where unknown.

    `finish` by choice: `stop`, `length`, `tool_calls`. The token ids only when asked for.
    """

    finish: dict[int, str] = field(default_factory=dict)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    prompt_ns: int = 0
    eval_ns: int = 0
    total_ns: int = 0
    load_ns: int = 0
    prompt_ids: list[int] = field(default_factory=list)
    output_ids: list[int] = field(default_factory=list)

    @property
    def reason(self) -> str:
        """Why the first choice ended."""
        return self.finish.get(0, "stop")
