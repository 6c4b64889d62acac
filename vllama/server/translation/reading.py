"""Reading engines: their streams and whole answers become pieces and a tally.

Three shapes are read: OpenAI's chat and text completions with vLLM's and llama.cpp's
additions, and llama.cpp's own `/completion`, which alone gives its token ids.
"""

import json
import time
from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

from vllama.errors import EngineFailed
from vllama.server.relay.refusal import engine_message
from vllama.server.translation.pieces import Piece, Tally

_FINISH = {"length": "length", "limit": "length", "tool_calls": "tool_calls"}


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: Any = None


class _Call(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    message: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Any = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: dict[str, Any] | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    timings: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    prompt_token_ids: list[int] | None = None
    error: Any = None


class _Native(msgspec.Struct):
    content: str = ""
    tokens: list[int] = []
    stop: bool = False
    stop_type: str = ""
    tokens_evaluated: int = 0
    tokens_predicted: int = 0
    timings: dict[str, Any] | None = None
    completion_probabilities: list[dict[str, Any]] | None = None
    index: int = 0
    error: Any = None


_chunk = msgspec.json.Decoder(_Chunk).decode
_native = msgspec.json.Decoder(_Native).decode


class Reader(Protocol):
    """Reads one answer."""

    tally: Tally

    def event(self, data: bytes) -> Iterator[Piece]:
        """The pieces of one event of a stream."""
        ...

    def whole(self, body: bytes) -> list[Piece]:
        """The pieces of a whole answer, one a choice."""
        ...

    def finished(self) -> Iterator[Piece]:
        """What could only be told at the end of the stream."""
        ...


class OpenAIReader:
    """OpenAI's chat and text completions."""

    def __init__(self, top_logprobs: int = 0) -> None:
        self.tally = Tally()
        self._top = top_logprobs
        self._calls: dict[tuple[int, int], dict[str, Any]] = {}

    def event(self, data: bytes) -> Iterator[Piece]:
        """The pieces of one chunk; tool calls are held until they are whole."""
        chunk = _chunk(data)
        if chunk.error is not None:
            raise EngineFailed(engine_message(data) or "the engine failed", kind="crash")
        if chunk.usage is not None or chunk.timings is not None or chunk.metrics is not None:
            self._counted(chunk)
        if chunk.prompt_token_ids:
            self.tally.prompt_ids = chunk.prompt_token_ids
        for choice in chunk.choices:
            piece = self._piece(choice, choice.delta)
            if piece:
                yield piece

    def whole(self, body: bytes) -> list[Piece]:
        """The pieces of a whole answer, one a choice."""
        chunk = _chunk(body)
        self._counted(chunk)
        self.tally.prompt_ids = chunk.prompt_token_ids or []
        pieces = {}
        for choice in chunk.choices:
            pieces[choice.index] = self._piece(choice, choice.message)
        for call in self.finished():
            pieces[call.choice].add(call)
        return [pieces[i] for i in sorted(pieces)]

    def finished(self) -> Iterator[Piece]:
        """The tool calls, now that they are whole."""
        by_choice: dict[int, Piece] = {}
        for (choice, _), call in sorted(self._calls.items()):
            piece = by_choice.setdefault(choice, Piece(choice=choice))
            piece.calls.append(
                {
                    "id": call["id"] or None,
                    "function": {
                        "index": len(piece.calls),
                        "name": call["name"],
                        "arguments": _arguments(call["arguments"]),
                    },
                }
            )
        self._calls.clear()
        yield from by_choice.values()

    def _piece(self, choice: _Choice, delta: _Delta | None) -> Piece:
        piece = Piece(choice=choice.index)
        if delta is not None:
            piece.text = delta.content or ""
            piece.thinking = delta.reasoning or delta.reasoning_content or ""
            for call in delta.tool_calls or ():
                self._call(choice.index, call)
        elif choice.text:
            piece.text = choice.text
        if choice.logprobs:
            piece.logprobs = logprobs(choice.logprobs, self._top)
        if choice.token_ids and choice.index == 0:
            self.tally.output_ids += choice.token_ids
        if choice.prompt_token_ids:
            self.tally.prompt_ids = choice.prompt_token_ids
        if choice.finish_reason:
            self.tally.finish[choice.index] = _FINISH.get(choice.finish_reason, "stop")
        return piece

    def _call(self, choice: int, call: _Call) -> None:
        index = call.index
        if index is None:
            index = sum(1 for c, _ in self._calls if c == choice)
        held = self._calls.setdefault((choice, index), {"id": "", "name": "", "arguments": ""})
        held["id"] = call.id or held["id"]
        if call.function is not None:
            held["name"] += call.function.name or ""
            arguments = call.function.arguments
            if isinstance(arguments, str):
                held["arguments"] += arguments
            elif arguments is not None:
                held["arguments"] = json.dumps(arguments)

    def _counted(self, chunk: _Chunk) -> None:
        if chunk.usage is not None:
            self.tally.prompt_tokens = chunk.usage.prompt_tokens
            self.tally.output_tokens = chunk.usage.completion_tokens or 0
            details = chunk.usage.prompt_tokens_details or {}
            self.tally.cached_tokens = int(details.get("cached_tokens") or 0)
        if chunk.timings is not None:
            timed(self.tally, chunk.timings)
        if chunk.metrics is not None:
            first = chunk.metrics.get("time_to_first_token_ms") or 0.0
            queued = chunk.metrics.get("queue_time_ms") or 0.0
            self.tally.prompt_ns = max(0, int((first - queued) * 1e6))
            self.tally.eval_ns = int((chunk.metrics.get("generation_time_ms") or 0.0) * 1e6)


class LlamaReader:
    """llama.cpp's own `/completion`; `prompts` is how many were sent in one call."""

    def __init__(self, top_logprobs: int = 0, prompts: int = 1) -> None:
        self.tally = Tally()
        self._top = top_logprobs
        self._prompts = prompts
        self._evaluated: list[int] = []

    def event(self, data: bytes) -> Iterator[Piece]:
        """The piece of one event."""
        chunk = _native(data)
        if chunk.error is not None:
            raise EngineFailed(engine_message(data) or "the engine failed", kind="crash")
        piece = Piece(chunk.content, choice=chunk.index)
        if chunk.completion_probabilities and not (chunk.stop and self.tally.output_ids):
            piece.logprobs = [_logprob(each, self._top) for each in chunk.completion_probabilities]
        if chunk.tokens:
            self.tally.output_ids += chunk.tokens
        if chunk.stop:
            self._ended(chunk)
        if piece:
            yield piece

    def whole(self, body: bytes) -> list[Piece]:
        """The whole answer."""
        data = body.strip()
        bodies = json.loads(data) if data.startswith(b"[") else [json.loads(data)]
        found = []
        for each in bodies:
            piece = Piece(choice=each.get("index", 0))
            for part in self.event(json.dumps(each).encode()):
                piece.add(part)
            found.append(piece)
        return found

    def finished(self) -> Iterator[Piece]:
        """Nothing is held back."""
        yield from ()

    def _ended(self, chunk: _Native) -> None:
        self.tally.finish[chunk.index] = _FINISH.get(chunk.stop_type, "stop")
        if chunk.timings is not None:
            self.tally.prompt_ns = int((chunk.timings.get("prompt_ms") or 0.0) * 1e6)
            self.tally.eval_ns = int((chunk.timings.get("predicted_ms") or 0.0) * 1e6)
            self.tally.cached_tokens = int(chunk.timings.get("cache_n") or 0)
        self._evaluated.append(chunk.tokens_evaluated)
        # Each of several choices tells its prompt again.
        self.tally.prompt_tokens = (
            sum(self._evaluated) * self._prompts // max(self._prompts, len(self._evaluated))
        )
        self.tally.output_tokens += chunk.tokens_predicted


def timed(tally: Tally, timings: dict[str, Any]) -> None:
    """Take over llama.cpp's own measurements."""
    cached = int(timings.get("cache_n") or 0)
    tally.cached_tokens = cached
    tally.prompt_tokens = max(tally.prompt_tokens, int(timings.get("prompt_n") or 0) + cached)
    tally.output_tokens = max(tally.output_tokens, int(timings.get("predicted_n") or 0))
    tally.prompt_ns = int((timings.get("prompt_ms") or 0.0) * 1e6)
    tally.eval_ns = int((timings.get("predicted_ms") or 0.0) * 1e6)


def logprobs(document: dict[str, Any], top: int) -> list[dict[str, Any]]:
    """Either of OpenAI's two shapes as Ollama's list, with `top` alternatives each."""
    if document.get("content"):
        return [_logprob(each, top) for each in document["content"]]
    tokens, values = document.get("tokens") or [], document.get("token_logprobs") or []
    others = document.get("top_logprobs") or [None] * len(tokens)
    found = []
    for token, value, other in zip(tokens, values, others, strict=False):
        entry = _entry(token, value)
        if other and top:
            ranked = sorted(other.items(), key=lambda pair: -pair[1])[:top]
            entry["top_logprobs"] = [_entry(name, each) for name, each in ranked]
        found.append(entry)
    return found


def now_ns() -> int:
    """A clock that only goes forward."""
    return time.monotonic_ns()


def _logprob(each: dict[str, Any], top: int) -> dict[str, Any]:
    entry = _entry(each.get("token", ""), each.get("logprob", 0.0), each.get("bytes"))
    others = each.get("top_logprobs")
    if others and top:
        ranked = sorted(others, key=lambda other: -(other.get("logprob") or 0.0))[:top]
        entry["top_logprobs"] = [
            _entry(one.get("token", ""), one.get("logprob", 0.0), one.get("bytes"))
            for one in ranked
        ]
    return entry


def _entry(token: str, value: float | None, raw: list[int] | None = None) -> dict[str, Any]:
    data = raw if raw is not None else list(token.encode("utf-8", "surrogatepass"))
    return {"token": token, "logprob": value if value is not None else 0.0, "bytes": data}


def _arguments(text: str) -> Any:
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
