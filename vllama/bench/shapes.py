"""The shapes of answers: chunks, lines and vectors, with the fields that the bench reads."""

from typing import Any

import msgspec


class Words(msgspec.Struct, gc=False):
    """What a chunk or a message says, in OpenAI's words or Ollama's."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    thinking: str | None = None
    tool_calls: list[msgspec.Raw] | None = None

    @property
    def says(self) -> bool:
        """Whether there is anything that took a token."""
        return bool(self.content or self.thought or self.tool_calls)

    @property
    def thought(self) -> str | None:
        """The reasoning, whatever the server calls it."""
        return self.reasoning or self.reasoning_content or self.thinking


class Choice(msgspec.Struct, gc=False):
    """One of the answers: its text or chunk or whole message."""

    text: str | None = None
    delta: Words | None = None
    message: Words | None = None
    finish_reason: str | None = None


class Usage(msgspec.Struct, gc=False):
    """The server's counts."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Chunk(msgspec.Struct, gc=False):
    """A chunk or a whole answer of OpenAI's API."""

    choices: list[Choice] = msgspec.field(default_factory=list)
    usage: Usage | None = None
    error: Any = None


class Line(msgspec.Struct, gc=False):
    """A line or a whole answer of Ollama's API."""

    response: str | None = None
    thinking: str | None = None
    message: Words | None = None
    done: bool = False
    prompt_eval_count: int = 0
    eval_count: int = 0
    error: str | None = None


class Vectors(msgspec.Struct):
    """Embeddings of either API."""

    usage: Usage | None = None
    data: list[msgspec.Raw] = msgspec.field(default_factory=list)
    embeddings: list[msgspec.Raw] = msgspec.field(default_factory=list)
    prompt_eval_count: int = 0
    error: Any = None


chunk = msgspec.json.Decoder(Chunk)
chunks = msgspec.json.Decoder(list[Chunk])
line = msgspec.json.Decoder(Line)
vectors = msgspec.json.Decoder(Vectors)
