"""Requests of OpenAI's Responses API become asks."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vllama.server.ollama import requests as ollama_requests
from vllama.server.openai import requests as openai_requests
from vllama.server.relay.refusal import Refusal
from vllama.server.translation.ask import Ask
from vllama.store.card import Card

Fields = Mapping[str, Any]


def check(found: Fields) -> list[dict[str, Any]]:
    """The messages in Ollama's form.

    Raises:
        Refusal: an early one.
    """
    openai_requests.effort(found)
    told: list[dict[str, Any]] = []
    if found.get("instructions"):
        told.append({"role": "system", "content": found["instructions"]})
    given = found.get("input")
    if isinstance(given, str):
        told.append({"role": "user", "content": given})
    elif isinstance(given, list):
        names: dict[str, str] = {}
        thinking = ""
        for position, item in enumerate(given):
            thinking = _item(item, position, told, names, thinking)
    elif given is not None:
        raise _bad("input must be a string or array")
    return told


def ask(found: Fields, messages: list[dict[str, Any]], key: str, card: Card | None) -> Ask:
    """The ask of `/v1/responses`."""
    options: dict[str, Any] = {"temperature": found.get("temperature", 1.0)}
    if "top_p" in found:
        options["top_p"] = found["top_p"]
    if "max_output_tokens" in found:
        options["num_predict"] = found["max_output_tokens"]
    asked: dict[str, Any] = {
        "model": found["model"],
        "messages": messages,
        "tools": [
            _tool(t) for t in found.get("tools") or () if (t or {}).get("type") == "function"
        ],
        "stream": found.get("stream", False),
        "options": options,
        "format": _schema(found.get("text")),
        "think": openai_requests.effort(found),
        "truncate": found.get("truncation") != "disabled",
    }
    made = ollama_requests.chat(asked, key, card)
    choice = found.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "function" and "name" in choice:
        choice = {"type": "function", "function": {"name": choice["name"]}}
    return replace(made, tool_choice=choice if made.tools else None)


def _item(
    item: Any, position: int, told: list[dict[str, Any]], names: dict[str, str], thinking: str
) -> str:
    """Add one input item; the thinking that belongs to the next message."""
    if not isinstance(item, dict):
        raise _bad(f"input[{position}]: invalid input item")
    sort = item.get("type") or ("message" if "role" in item else "")
    if sort == "reasoning":
        return thinking + str(item.get("encrypted_content") or "")
    if sort == "web_search_call":
        return thinking
    if sort == "message":
        message = _message(item, position)
    elif sort == "function_call":
        message = _call(item, position)
        names[message["tool_calls"][0]["id"]] = message["tool_calls"][0]["function"]["name"]
    elif sort == "function_call_output":
        call = str(item.get("call_id") or "")
        message = {"role": "tool", "content": _output(item.get("output")), "tool_call_id": call}
        message["tool_name"] = names.get(call, "")
    else:
        raise _bad(f'input[{position}]: unknown input item type: "{sort}"')
    if thinking and message["role"] == "assistant":
        message["thinking"] = thinking
    told.append(message)
    return ""


def _message(item: Fields, position: int) -> dict[str, Any]:
    role, content = item.get("role", ""), item.get("content")
    role = "system" if role == "developer" else str(role)
    if isinstance(content, str):
        return {"role": role, "content": content}
    if not isinstance(content, list):
        raise _bad(f"input[{position}]: content must be a string or array")
    texts, images = [], []
    for part in content:
        sort = part.get("type") if isinstance(part, dict) else None
        if sort in ("input_text", "output_text", "text") and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif sort == "input_image":
            url = part.get("image_url")
            images.append(openai_requests.image(url if isinstance(url, str) else ""))
        elif sort == "refusal":
            texts.append(str(part.get("refusal") or ""))
        else:
            raise _bad(f'input[{position}]: unknown content type: "{sort}"')
    told: dict[str, Any] = {"role": role, "content": "\n".join(texts)}
    return {**told, "images": images} if images else told


def _call(item: Fields, position: int) -> dict[str, Any]:
    function = {"name": str(item.get("name") or ""), "arguments": item.get("arguments") or "{}"}
    if not isinstance(function["arguments"], str):
        raise _bad(f"input[{position}]: arguments must be a string")
    call = {"id": str(item.get("call_id") or item.get("id") or ""), "function": function}
    return openai_requests.message({"role": "assistant", "content": "", "tool_calls": [call]})


def _output(output: Any) -> str:
    if isinstance(output, list):
        return "\n".join(str(p.get("text") or "") for p in output if isinstance(p, dict))
    return output if isinstance(output, str) else ""


def _tool(tool: Fields) -> dict[str, Any]:
    parameters = tool.get("parameters")
    function = {
        "name": str(tool.get("name") or ""),
        "description": str(tool.get("description") or ""),
        "parameters": parameters if isinstance(parameters, dict) else {"type": "object"},
    }
    return {"type": "function", "function": function}


def _schema(text: Any) -> Any:
    wanted = text.get("format") if isinstance(text, dict) else None
    if not isinstance(wanted, dict):
        return None
    if wanted.get("type") == "json_object":
        return "json"
    return wanted.get("schema") if wanted.get("type") == "json_schema" else None


def _bad(message: str) -> Refusal:
    return Refusal(400, message, early=True)
