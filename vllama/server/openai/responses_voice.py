"""How OpenAI's Responses API tells an answer: items, one open at a time, every event numbered."""

import random
import time
from collections.abc import Mapping
from typing import Any

from vllama.server.openai.voices import calls
from vllama.server.relay.exchange import Reply
from vllama.server.relay.refusal import RESPONSES, Form
from vllama.server.relay.written import EVENTS, JSON, dump
from vllama.server.translation.pieces import Piece, Tally
from vllama.uplink import Headers


class ResponseVoice:
    """Of `/v1/responses`. `found` is the request, of which much is echoed."""

    media_type = EVENTS
    form: Form = RESPONSES

    def __init__(self, found: Mapping[str, Any]) -> None:
        self._found = found
        self._id = f"resp_{random.randrange(999_999)}"
        self._created = int(time.time())
        self._number = -1
        self._items: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None
        self._text = ""
        self._has_begun = False
        self.headers: Headers = [(b"cache-control", b"no-cache")]

    def frame(self) -> None:
        """There is none: how a text is told depends on what came before."""

    def piece(self, piece: Piece) -> bytes:
        """The events of one piece."""
        out = self._begin()
        if piece.thinking:
            out += self._into("reasoning")
            self._text += piece.thinking
            where = {**self._where(), "summary_index": 0, "delta": piece.thinking}
            out += self._event("response.reasoning_summary_text.delta", where)
        if piece.text:
            out += self._into("message")
            self._text += piece.text
            where = {**self._where(), "content_index": 0, "delta": piece.text, "logprobs": []}
            out += self._event("response.output_text.delta", where)
        for call in calls(piece, 0):
            out += self._call(call)
        return out

    def last(self, tally: Tally) -> bytes:
        """How it ended."""
        out = self._begin() + self._close()
        whole = self._response("completed", tally)
        return out + self._event("response.completed", {"response": whole})

    def whole(self, pieces: list[Piece], tally: Tally) -> Reply:
        """Everything in one object."""
        piece = pieces[0]
        if piece.thinking:
            self._items.append(_reasoning(_id("rs"), piece.thinking))
        if piece.text or not piece.calls:
            self._items.append(_message(_id("msg"), piece.text))
        self._items += [_function(call) for call in calls(piece, 0)]
        told = self._response("completed", tally)
        return Reply(200, dump(told) + b"\n", [(b"content-type", JSON)])

    def _begin(self) -> bytes:
        if self._has_begun:
            return b""
        self._has_begun = True
        start = {"response": self._response("in_progress", None)}
        return self._event("response.created", start) + self._event("response.in_progress", start)

    def _into(self, sort: str) -> bytes:
        if self._open is not None and self._open["type"] == sort:
            return b""
        out = self._close()
        if sort == "reasoning":
            self._open = {"id": _id("rs"), "type": sort, "summary": []}
        else:
            self._open = {**_message(_id("msg"), ""), "status": "in_progress", "content": []}
        out += self._event("response.output_item.added", self._place(self._open))
        if sort == "message":
            part = {**self._where(), "content_index": 0, "part": _part("")}
            out += self._event("response.content_part.added", part)
        return out

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        where, text = self._where(), self._text
        if self._open["type"] == "reasoning":
            item = _reasoning(self._open["id"], text)
            done = {**where, "summary_index": 0, "text": text}
            out = self._event("response.reasoning_summary_text.done", done)
        else:
            item = _message(self._open["id"], text)
            done = {**where, "content_index": 0, "text": text, "logprobs": []}
            out = self._event("response.output_text.done", done)
            part = {**where, "content_index": 0, "part": _part(text)}
            out += self._event("response.content_part.done", part)
        out += self._event("response.output_item.done", self._place(item))
        self._items.append(item)
        self._open, self._text = None, ""
        return out

    def _call(self, call: dict[str, Any]) -> bytes:
        out = self._close()
        item = _function(call)
        begun = {**item, "status": "in_progress", "arguments": ""}
        out += self._event("response.output_item.added", self._place(begun))
        where = {"item_id": item["id"], "output_index": len(self._items)}
        text = item["arguments"]
        out += self._event("response.function_call_arguments.delta", {**where, "delta": text})
        out += self._event("response.function_call_arguments.done", {**where, "arguments": text})
        out += self._event("response.output_item.done", self._place(item))
        self._items.append(item)
        return out

    def _where(self) -> dict[str, Any]:
        item = self._open or {}
        return {"item_id": item.get("id", ""), "output_index": len(self._items)}

    def _place(self, item: dict[str, Any]) -> dict[str, Any]:
        return {"output_index": len(self._items), "item": item}

    def _event(self, name: str, document: dict[str, Any]) -> bytes:
        self._number += 1
        told = {"type": name, "sequence_number": self._number, **document}
        return b"event: %b\ndata: %b\n\n" % (name.encode(), dump(told))

    def _response(self, status: str, tally: Tally | None) -> dict[str, Any]:
        found = self._found
        text = found.get("text")
        plain = {"format": {"type": "text"}}
        choice = found.get("tool_choice")
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "completed_at": int(time.time()) if tally is not None else None,
            "status": status,
            "incomplete_details": None,
            "model": found.get("model", ""),
            "previous_response_id": None,
            "instructions": found.get("instructions"),
            "output": list(self._items),
            "error": None,
            "tools": list(found.get("tools") or ()),
            "tool_choice": choice if choice is not None else "auto",
            "truncation": found.get("truncation") or "disabled",
            "parallel_tool_calls": found.get("parallel_tool_calls", True),
            "text": text if isinstance(text, dict) and "format" in text else plain,
            "top_p": found.get("top_p", 1),
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "top_logprobs": 0,
            "temperature": found.get("temperature", 1),
            "reasoning": found.get("reasoning"),
            "usage": _usage(tally) if tally is not None else None,
            "max_output_tokens": found.get("max_output_tokens"),
            "max_tool_calls": None,
            "store": False,
            "background": False,
            "service_tier": "default",
            "metadata": found.get("metadata") or {},
            "safety_identifier": None,
            "prompt_cache_key": None,
        }


def _usage(tally: Tally) -> dict[str, Any]:
    return {
        "input_tokens": tally.prompt_tokens,
        "output_tokens": tally.output_tokens,
        "total_tokens": tally.prompt_tokens + tally.output_tokens,
        "input_tokens_details": {"cached_tokens": tally.cached_tokens},
        "output_tokens_details": {"reasoning_tokens": 0},
    }


def _id(prefix: str) -> str:
    return f"{prefix}_{random.randrange(999_999)}"


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _message(name: str, text: str) -> dict[str, Any]:
    start = {"id": name, "type": "message", "status": "completed", "role": "assistant"}
    return {**start, "content": [_part(text)]}


def _reasoning(name: str, text: str) -> dict[str, Any]:
    summary = [{"type": "summary_text", "text": text}]
    return {"id": name, "type": "reasoning", "summary": summary, "encrypted_content": text}


def _function(call: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": _id("fc"),
        "type": "function_call",
        "status": "completed",
        "call_id": call["id"],
        "name": call["function"]["name"],
        "arguments": call["function"]["arguments"],
    }
