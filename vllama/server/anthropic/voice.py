"""How Anthropic's API tells an answer: blocks, one open at a time."""

import secrets
from typing import Any

from vllama.server.relay.exchange import Reply
from vllama.server.relay.refusal import ANTHROPIC, Form
from vllama.server.relay.written import EVENTS, JSON, dump
from vllama.server.translation.pieces import Piece, Tally
from vllama.uplink import Headers


class MessageVoice:
    """Of `/v1/messages`. `estimate` is how many tokens the prompt may have."""

    media_type = EVENTS
    form: Form = ANTHROPIC

    def __init__(self, model: str, estimate: int) -> None:
        self._model = model
        self._estimate = estimate
        self._id = f"msg_{secrets.token_hex(12)}"
        self._open = ""
        self._index = -1
        self._has_begun = False
        self._has_calls = False
        self.headers: Headers = [(b"cache-control", b"no-cache")]

    def frame(self) -> None:
        """There is none: how a text is told depends on what came before."""

    def piece(self, piece: Piece) -> bytes:
        """The events of one piece."""
        out = self._begin()
        if piece.thinking:
            out += self._in_block("thinking", {"thinking": ""})
            out += self._delta({"type": "thinking_delta", "thinking": piece.thinking})
        if piece.text:
            out += self._in_block("text", {"text": ""})
            out += self._delta({"type": "text_delta", "text": piece.text})
        for call in piece.calls:
            self._has_calls = True
            out += self._close()
            function = call["function"]
            block = {"id": _use_id(call), "name": function["name"], "input": {}}
            out += self._in_block("tool_use", block)
            partial = dump(function["arguments"]).decode()
            out += self._delta({"type": "input_json_delta", "partial_json": partial})
            out += self._close()
        return out

    def last(self, tally: Tally) -> bytes:
        """How it ended."""
        out = self._begin() + self._close()
        reason = {"stop_reason": _reason(tally, has_calls=self._has_calls)}
        out += _event("message_delta", {"delta": reason, "usage": _usage(tally)})
        return out + _event("message_stop", {})

    def whole(self, pieces: list[Piece], tally: Tally) -> Reply:
        """Everything in one object."""
        piece = pieces[0]
        content: list[dict[str, Any]] = []
        if piece.thinking:
            content.append({"type": "thinking", "thinking": piece.thinking})
        if piece.text:
            content.append({"type": "text", "text": piece.text})
        for call in piece.calls:
            function = call["function"]
            block = {"id": _use_id(call), "name": function["name"], "input": function["arguments"]}
            content.append({"type": "tool_use", **block})
        told = {
            **self._start(),
            "content": content or None,
            "stop_reason": _reason(tally, has_calls=bool(piece.calls)),
            "usage": _usage(tally),
        }
        return Reply(200, dump(told) + b"\n", [(b"content-type", JSON)])

    def _start(self) -> dict[str, Any]:
        return {"id": self._id, "type": "message", "role": "assistant", "model": self._model}

    def _begin(self) -> bytes:
        if self._has_begun:
            return b""
        self._has_begun = True
        usage = {"input_tokens": self._estimate, "output_tokens": 0}
        message = {**self._start(), "content": [], "usage": usage}
        return _event("message_start", {"message": message})

    def _in_block(self, sort: str, block: dict[str, Any]) -> bytes:
        if self._open == sort:
            return b""
        out = self._close()
        self._open = sort
        self._index += 1
        start = {"index": self._index, "content_block": {"type": sort, **block}}
        return out + _event("content_block_start", start)

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", {"index": self._index, "delta": delta})

    def _close(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        return _event("content_block_stop", {"index": self._index})


def _use_id(call: dict[str, Any]) -> str:
    return call.get("id") or f"toolu_{secrets.token_hex(12)}"


def _reason(tally: Tally, *, has_calls: bool) -> str:
    if has_calls:
        return "tool_use"
    return "max_tokens" if tally.reason == "length" else "end_turn"


def _usage(tally: Tally) -> dict[str, int]:
    return {"input_tokens": tally.prompt_tokens, "output_tokens": tally.output_tokens}


def _event(name: str, document: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), dump({"type": name, **document}))
