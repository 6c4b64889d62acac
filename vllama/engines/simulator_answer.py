"""One request to the simulator: what it will answer, planned before the first token."""

import json
from dataclasses import dataclass, field
from typing import Any

from vllama.engines import simulator_text as text
from vllama.engines.simulator_text import Script, Scripted

BLOCK = 16


class Refused(Exception):
    """The request is answered with an error."""

    def __init__(self, status: int, document: Any, headers: dict[str, str] | None = None) -> None:
        super().__init__(str(document))
        self.headers = headers
        self.status = status
        self.document = document


@dataclass(frozen=True, slots=True)
class Piece:
    """What one token brings: a delta of a chat message; `text` is what a completion shows."""

    delta: dict[str, Any]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole answer, token by token."""

    prompt_tokens: int
    cached_tokens: int
    pieces: tuple[Piece, ...]
    finish_reason: str


@dataclass(slots=True)
class PrefixCache:
    """Which blocks of prompts were seen, as chained hashes."""

    enabled: bool = True
    _seen: set[int] = field(default_factory=set)

    def take(self, tokens: list[int]) -> int:
        """How many leading tokens are known; all of them are from now on."""
        if not self.enabled:
            return 0
        chain, known, broken = 0, 0, False
        for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
            chain = hash((chain, *tokens[start : start + BLOCK]))
            broken = broken or chain not in self._seen
            known += 0 if broken else BLOCK
            self._seen.add(chain)
        return min(known, max(0, len(tokens) - 1))

    def reset(self) -> None:
        """Forget all."""
        self._seen.clear()


class Planner:
    """Decides what is answered, from the request and the script."""

    def __init__(
        self, script: Script, *, max_model_len: int, answer_tokens: int, cache: PrefixCache
    ) -> None:
        self._script = script
        self._length = max_model_len
        self._answer_tokens = answer_tokens
        self.cache = cache

    def plan(self, prompt: str | list[int], wanted: int | None, *, exact: bool) -> Plan:
        """An answer of `wanted` tokens at most; of just as many when `exact`.

        Raises:
            Refused: too long, or the script says so.
        """
        tokens = text.ids(prompt) if isinstance(prompt, str) else prompt
        room = self._length - len(tokens)
        if room < 1:
            raise _too_long(self._length, len(tokens))
        if wanted is not None and wanted < 1:
            raise Refused(400, _error(f"max_tokens must be at least 1, got {wanted}.", 400))
        scripted = self._script.answer_to(prompt) if isinstance(prompt, str) else None
        if scripted is not None and scripted.status:
            raise Refused(scripted.status, scripted.error or _error("scripted", scripted.status))
        pieces = _pieces(scripted) if scripted else self._words(tokens, wanted, exact)
        most = min(room, wanted) if wanted is not None else room
        finish = scripted.finish_reason if scripted else ""
        if not finish:
            finish = "tool_calls" if scripted and scripted.tool_calls else "stop"
        if len(pieces) > most or (exact and len(pieces) == wanted):
            finish = "length"
        return Plan(len(tokens), self.cache.take(tokens), tuple(pieces[:most]), finish)

    def _words(self, tokens: list[int], wanted: int | None, exact: bool) -> list[Piece]:
        count = wanted if exact and wanted is not None else self._answer_tokens
        made = text.words(hash(tuple(tokens)) & 0x7FFFFFFF, count)
        return [Piece({"content": word}, word) for word in made]


def _pieces(scripted: Scripted) -> list[Piece]:
    if scripted.deltas:
        return [Piece(delta, str(delta.get("content") or "")) for delta in scripted.deltas]
    pieces = [Piece({"reasoning": part}) for part in text.split(scripted.reasoning)]
    pieces += [Piece({"content": part}, part) for part in text.split(scripted.content)]
    for index, call in enumerate(scripted.tool_calls):
        pieces += _call(index, call)
    return pieces or [Piece({"content": ""})]


def _call(index: int, call: dict[str, Any]) -> list[Piece]:
    """A tool call as it is streamed: its name first, then its arguments bit by bit."""
    arguments = call.get("arguments", {})
    written = arguments if isinstance(arguments, str) else json.dumps(arguments)
    head = {
        "index": index,
        "id": call.get("id", f"call_{index}"),
        "type": "function",
        "function": {"name": call["name"], "arguments": ""},
    }
    rest = [{"index": index, "function": {"arguments": part}} for part in text.split(written)]
    return [Piece({"tool_calls": [part]}) for part in (head, *rest)]


def _too_long(length: int, tokens: int) -> Refused:
    message = (
        f"This model's maximum context length is {length} tokens. However, your request has"
        f" {tokens} input tokens. Please reduce the length of the input messages."
    )
    return Refused(400, _error(message, 400))


def _error(message: str, code: int) -> dict[str, Any]:
    return {"error": {"message": message, "type": "BadRequestError", "param": None, "code": code}}
