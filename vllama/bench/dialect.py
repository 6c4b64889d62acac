"""How a server wants to be asked: OpenAI's completions, chat and embeddings, or Ollama's own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import msgspec

from vllama.bench import answers
from vllama.bench.answers import Reader
from vllama.bench.wire import Wire
from vllama.bench.workload import Asks, Kind

Body: TypeAlias = dict[str, Any]
SCHEMA: Body = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "count": {"type": "integer"}},
    "required": ["city", "count"],
}
TOOL: Body = {
    "type": "function",
    "function": {"name": "weather", "description": "The weather now.", "parameters": SCHEMA},
}
_JSON = ((b"content-type", b"application/json"),)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked. `ids` is `text` in the model's tokens, where they are known.

    `tokens` is the count that the server's usage must confirm. `earlier` are the turns of a
    conversation before it.
    """

    text: str
    tokens: int
    ids: tuple[int, ...] = ()
    earlier: tuple[tuple[str, str], ...] = ()

    @property
    def messages(self) -> list[Body]:
        """The conversation: earlier turns with the answers they got, then this one."""
        told: list[Body] = []
        for question, answer in self.earlier:
            told.append({"role": "user", "content": question})
            told.append({"role": "assistant", "content": answer})
        return [*told, {"role": "user", "content": self.text}]


class Dialect(Protocol):
    """One way to ask for a piece of work and to read its answer."""

    @property
    def name(self) -> str:
        """Such as `openai-chat`."""
        ...

    def request(self, pool: Wire, prompt: Prompt, output_tokens: int, *, stream: bool) -> bytes:
        """The bytes that ask for it."""
        ...

    def reader(self, *, stream: bool) -> Reader:
        """What reads the answer."""
        ...


def encode(pool: Wire, path: str, body: Body) -> bytes:
    """One POST with a JSON body."""
    return pool.request(b"POST", path.encode(), msgspec.json.encode(body), _JSON)


@dataclass(frozen=True, slots=True)
class OpenAi:
    """OpenAI's API. `extras` are the fields beyond it that fix the length of an answer."""

    model: str
    kind: Kind = "completion"
    extras: bool = True
    asks: Asks = "text"

    @property
    def name(self) -> str:
        return f"openai-{self.kind}"

    def request(self, pool: Wire, prompt: Prompt, output_tokens: int, *, stream: bool) -> bytes:
        if self.kind == "embed":
            return encode(pool, "/v1/embeddings", {"model": self.model, "input": prompt.text})
        body: Body = {
            "model": self.model,
            "max_tokens": output_tokens,
            "temperature": 0,
            "stream": stream,
        }
        if stream:
            body["stream_options"] = {"include_usage": True}
        if self.asks == "tool":
            body |= {"tools": [TOOL], "tool_choice": "auto"}
        elif self.asks == "json":
            schema = {"name": "answer", "schema": SCHEMA}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif self.extras:
            body |= {"ignore_eos": True, "min_tokens": output_tokens}
        if self.kind == "chat":
            body["messages"] = prompt.messages
            return encode(pool, "/v1/chat/completions", body)
        body["prompt"] = prompt.ids or prompt.text
        return encode(pool, "/v1/completions", body)

    def reader(self, *, stream: bool) -> Reader:
        if self.kind == "embed":
            return answers.read_embedding
        return answers.read_events if stream else answers.read_completion


@dataclass(frozen=True, slots=True)
class Ollama:
    """Ollama's own API. It cannot be told to ignore an end of text."""

    model: str
    kind: Kind = "completion"
    options: Mapping[str, Any] | None = None
    asks: Asks = "text"

    @property
    def name(self) -> str:
        return f"ollama-{self.kind}"

    def request(self, pool: Wire, prompt: Prompt, output_tokens: int, *, stream: bool) -> bytes:
        body: Body = {"model": self.model, "keep_alive": "30m"}
        if self.kind == "embed":
            return encode(pool, "/api/embed", body | {"input": prompt.text})
        fixed = {"num_predict": output_tokens, "temperature": 0}
        body |= {"stream": stream, "options": fixed | dict(self.options or {})}
        if self.kind == "chat":
            body["messages"] = prompt.messages
            if self.asks == "tool":
                body["tools"] = [TOOL]
            elif self.asks == "json":
                body["format"] = SCHEMA
            return encode(pool, "/api/chat", body)
        return encode(pool, "/api/generate", body | {"prompt": prompt.text, "raw": True})

    def reader(self, *, stream: bool) -> Reader:
        if self.kind == "embed":
            return answers.read_ollama_embedding
        return answers.read_lines if stream else answers.read_ollama_whole
