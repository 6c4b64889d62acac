"""Anthropic's requests become asks, checked in Ollama's order."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vllama.server.ollama import requests as ollama_requests
from vllama.server.ollama.wire import bad_base64_at
from vllama.server.relay.refusal import Refusal
from vllama.server.translation.ask import Ask
from vllama.server.web.gotypes import (
    ANYTHING,
    OBJECT,
    REAL,
    TEXT,
    TEXTS,
    TRUTH,
    WHOLE,
    Record,
    Slice,
    kind,
)
from vllama.store.card import Card

Fields = Mapping[str, Any]
_MESSAGE = Record("MessageParam", "anthropic.MessageParam", {"role": TEXT, "content": ANYTHING})
MESSAGES = Record(
    "MessagesRequest",
    "anthropic.MessagesRequest",
    {
        "model": TEXT,
        "max_tokens": WHOLE,
        "messages": Slice(_MESSAGE, "[]anthropic.MessageParam"),
        "system": ANYTHING,
        "stream": TRUTH,
        "temperature": REAL,
        "top_p": REAL,
        "top_k": WHOLE,
        "stop_sequences": TEXTS,
        "tools": Slice(OBJECT, "[]anthropic.Tool"),
        "tool_choice": OBJECT,
        "thinking": Record(
            "ThinkingConfig", "anthropic.ThinkingConfig", {"type": TEXT, "budget_tokens": WHOLE}
        ),
        "output_config": OBJECT,
        "metadata": ANYTHING,
    },
)
_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "max"}


def check(found: Fields, *, counts: bool = False) -> list[dict[str, Any]]:
    """The messages in Ollama's form. `counts` when only tokens are to be counted.

    Raises:
        Refusal: an early one.
    """
    if not found.get("model"):
        raise _bad("model is required")
    if not counts and found.get("max_tokens", 0) <= 0:
        raise _bad("max_tokens is required and must be positive")
    if not found.get("messages"):
        raise _bad("messages is required")
    told = _system(found.get("system"))
    for message in found["messages"]:
        told += _messages(message or {})
    return told


def ask(found: Fields, messages: list[dict[str, Any]], key: str, card: Card | None) -> Ask:
    """The ask of `/v1/messages`."""
    asked: dict[str, Any] = {
        "model": found["model"],
        "messages": messages,
        "tools": [_tool(t) for t in found.get("tools") or () if t and "name" in t],
        "stream": found.get("stream", False),
        "options": _options(found),
        "think": _think(found, card),
    }
    made = ollama_requests.chat(asked, key, card)
    return replace(made, tool_choice=_tool_choice(found.get("tool_choice")))


def _system(system: Any) -> list[dict[str, Any]]:
    if isinstance(system, str):
        return [{"role": "system", "content": system}] if system else []
    texts = [b["text"] for b in _blocks(system or []) if b.get("type") == "text" and "text" in b]
    return [{"role": "system", "content": "\n".join(map(str, texts))}] if texts else []


def _blocks(content: Any) -> list[dict[str, Any]]:
    if not isinstance(content, list):
        raise _bad(f"invalid message content type: {kind(content)}")
    for block in content:
        if not isinstance(block, dict):
            raise _bad("invalid content block format")
    return content


def _messages(message: Fields) -> list[dict[str, Any]]:
    """One message, or several: the results of tools are messages of their own."""
    role, content = message.get("role", ""), message.get("content")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    texts: list[str] = []
    images: list[str] = []
    thinking: list[str] = []
    calls: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for block in _blocks(content if content is not None else []):
        sort = block.get("type")
        if sort == "text":
            texts.append(str(block.get("text") or ""))
        elif sort == "image":
            images.append(_image(block))
        elif sort == "thinking":
            thinking.append(str(block.get("thinking") or ""))
        elif sort in ("tool_use", "server_tool_use"):
            calls.append(_call(block, len(calls)))
        elif sort == "tool_result":
            results.append(_result(block))
    told: dict[str, Any] = {"role": role, "content": "\n".join(texts)}
    more = {"images": images, "thinking": "".join(thinking), "tool_calls": calls}
    told |= {name: value for name, value in more.items() if value}
    return [*results, told] if len(told) > 2 or told["content"] or not results else results


def _image(block: Fields) -> str:
    source = block.get("source")
    source = source if isinstance(source, dict) else {}
    if source.get("type") != "base64":
        raise _bad(
            f"invalid image source type: {source.get('type', '')}."
            " Only base64 images are supported."
        )
    data = source.get("data")
    if not isinstance(data, str) or bad_base64_at(data) is not None:
        raise _bad("invalid image data")
    return data


def _call(block: Fields, index: int) -> dict[str, Any]:
    for name in ("id", "name"):
        if not isinstance(block.get(name), str) or not block[name]:
            raise _bad(f"tool_use block missing required '{name}' field")
    arguments = block.get("input")
    arguments = arguments if isinstance(arguments, dict) else {}
    return {
        "id": block["id"],
        "function": {"index": index, "name": block["name"], "arguments": arguments},
    }


def _result(block: Fields) -> dict[str, Any]:
    content = block.get("content")
    if isinstance(content, list):
        texts = [str(b.get("text") or "") for b in _blocks(content) if b.get("type") == "text"]
        content = "\n".join(texts)
    told = {"role": "tool", "content": content if isinstance(content, str) else ""}
    return {**told, "tool_call_id": str(block.get("tool_use_id") or "")}


def _tool(tool: Fields) -> dict[str, Any]:
    schema = tool.get("input_schema")
    function = {
        "name": str(tool["name"]),
        "description": str(tool.get("description") or ""),
        "parameters": schema if isinstance(schema, dict) else {"type": "object"},
    }
    return {"type": "function", "function": function}


def _tool_choice(choice: Fields | None) -> Any:
    sort = (choice or {}).get("type")
    if sort == "tool":
        return {"type": "function", "function": {"name": str((choice or {}).get("name", ""))}}
    return {"auto": "auto", "any": "required", "none": "none"}.get(str(sort))


def _options(found: Fields) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if "max_tokens" in found:
        told["num_predict"] = found["max_tokens"]
    for name in ("temperature", "top_p", "top_k"):
        if name in found:
            told[name] = found[name]
    stop = [each for each in found.get("stop_sequences") or () if each is not None]
    if stop:
        told["stop"] = stop
    return told


def _think(found: Fields, card: Card | None) -> bool | str | None:
    """What cannot think is not asked to."""
    if card is not None and "thinking" not in card.capabilities:
        return None
    effort = _EFFORTS.get(str((found.get("output_config") or {}).get("effort", "")))
    sort = (found.get("thinking") or {}).get("type")
    if sort == "disabled":
        return False
    return effort or (True if sort in ("enabled", "adaptive") else None)


def _bad(message: str) -> Refusal:
    return Refusal(400, message, early=True)
