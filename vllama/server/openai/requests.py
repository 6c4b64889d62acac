"""OpenAI's chat and text completion requests become asks, with Ollama's texts for what is wrong."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vllama.server.ollama import requests as ollama_requests
from vllama.server.ollama.wire import bad_base64_at
from vllama.server.relay.refusal import Refusal
from vllama.server.translation.ask import Ask
from vllama.server.web.gotypes import kind
from vllama.store.card import Card

Fields = Mapping[str, Any]
_EFFORTS: dict[str, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
    "ultra": "max",
    "max": "max",
}
_IMAGE_KINDS = ("jpeg", "jpg", "png", "webp")
_GO_NAMES = {bool: "bool", int: "float64", float: "float64", dict: "map[string]interface {}"}


def check_chat(found: Fields) -> list[dict[str, Any]]:
    """The messages in Ollama's form; all that is wrong with a request whatever its model.

    Raises:
        Refusal: an early one.
    """
    if not found.get("messages"):
        raise _bad("[] is too short - 'messages'")
    effort(found)
    stops(found.get("stop"))
    names: dict[str, str] = {}
    return [message(m, names) for m in found["messages"] if m is not None]


def chat(found: Fields, messages: list[dict[str, Any]], key: str, card: Card | None) -> Ask:
    """The ask of `/v1/chat/completions`."""
    asked = {
        **{k: found[k] for k in ("model", "tools", "logprobs", "top_logprobs") if k in found},
        "messages": messages,
        "stream": found.get("stream", False),
        "options": sampling(found),
        "format": _format(found.get("response_format")),
        "think": effort(found),
    }
    return ollama_requests.chat(
        asked, key, card,
        tool_choice=found.get("tool_choice"), choices=_choices(found), extra=_extra(found),
    )  # fmt: skip


def completion(found: Fields, key: str, card: Card | None) -> Ask:
    """The ask of `/v1/completions`: the prompt is a user's message, as Ollama has it."""
    prompt = found.get("prompt", "")
    many = batch(prompt)
    asked = {
        "model": found["model"],
        "prompt": prompt if isinstance(prompt, str) else "",
        "suffix": found.get("suffix", ""),
        "stream": found.get("stream", False),
        "options": {"frequency_penalty": 0.0, "presence_penalty": 0.0, **sampling(found)},
    }
    ask = ollama_requests.generate(asked, key, card)
    return replace(ask, tokens=False, batch=many, choices=_choices(found), extra=_extra(found))


def batch(prompt: Any) -> tuple[str | tuple[int, ...], ...]:
    """A list of prompts; empty for a single text.

    Raises:
        Refusal: it is something else.
    """
    if isinstance(prompt, str) or prompt is None:
        return ()
    if isinstance(prompt, list) and prompt:
        if all(_is_token(item) for item in prompt):
            return (tuple(prompt),)
        if all(isinstance(item, str) or _are_tokens(item) for item in prompt):
            return tuple(item if isinstance(item, str) else tuple(item) for item in prompt)
    raise _bad(
        f"json: cannot unmarshal {kind(prompt)} into Go struct field CompletionRequest.prompt"
        " of type string"
    )


def effort(found: Fields) -> bool | str | None:
    """How much to think; None when nothing is said."""
    wanted = (found.get("reasoning") or {}).get("effort") or found.get("reasoning_effort")
    if not wanted:
        return None
    if wanted not in _EFFORTS:
        choices = '"minimal", "low", "medium", "high", "xhigh", "ultra", "max", or "none"'
        raise _bad(f'invalid reasoning value: "{wanted}" (must be {choices})')
    return _EFFORTS[wanted]


def stops(value: Any) -> list[str]:
    """The stop strings."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        for item in value:
            if not isinstance(item, str):
                raise _bad(f"invalid type for 'stop' field: {_go_name(item)}")
        return value
    raise _bad(f"invalid type for 'stop' field: {_go_name(value)}")


def sampling(found: Fields) -> dict[str, Any]:
    """Ollama's options; temperature and nucleus are OpenAI's defaults when absent."""
    told: dict[str, Any] = {
        "temperature": found.get("temperature", 1.0),
        "top_p": found.get("top_p", 1.0),
    }
    most = found.get("max_completion_tokens", found.get("max_tokens"))
    if most is not None:
        told["num_predict"] = most
    if found.get("stop") is not None:
        told["stop"] = stops(found["stop"])
    for name in ("seed", "frequency_penalty", "presence_penalty", "top_k", "min_p"):
        if name in found:
            told[name] = found[name]
    if "repetition_penalty" in found:
        told["repeat_penalty"] = found["repetition_penalty"]
    return told


def image(url: str) -> str:
    """The base64 inside a data URL.

    Raises:
        Refusal: it is a link to somewhere, or no image.
    """
    if url.startswith(("http://", "https://")):
        raise _bad("image URLs are not currently supported, please use base64 encoded data instead")
    for prefix in ("data:;base64,", *(f"data:image/{sort};base64," for sort in _IMAGE_KINDS)):
        if url.startswith(prefix):
            data = url.removeprefix(prefix)
            if bad_base64_at(data) is None:
                return data
    raise _bad("invalid image input")


def message(given: Fields, names: dict[str, str] | None = None) -> dict[str, Any]:
    """A message in Ollama's form; `names` are the tools' by the ids of their calls."""
    names = {} if names is None else names
    content = given.get("content")
    told: dict[str, Any] = {"role": given.get("role", "")}
    if isinstance(content, str):
        told["content"] = content
    elif isinstance(content, list):
        told |= _parts(content)
    elif content is None and given.get("tool_calls"):
        told["content"] = ""
    else:
        raise _bad(f"invalid message content type: {_go_name(content)}")
    if given.get("reasoning"):
        told["thinking"] = given["reasoning"]
    if given.get("tool_calls"):
        told["tool_calls"] = [_call(call) for call in given["tool_calls"] if call]
        names.update({c["id"]: c["function"]["name"] for c in told["tool_calls"]})
    if given.get("tool_call_id"):
        told["tool_call_id"] = given["tool_call_id"]
        told["tool_name"] = given.get("name") or names.get(given["tool_call_id"], "")
    elif told["role"] == "tool" and given.get("name"):
        told["tool_name"] = given["name"]
    return told


def _parts(content: list[Any]) -> dict[str, Any]:
    texts, images = [], []
    for part in content:
        if not isinstance(part, dict):
            raise _bad("invalid message format")
        sort = part.get("type")
        if sort == "text":
            if not isinstance(part.get("text"), str):
                raise _bad("invalid message format")
            texts.append(part["text"])
        elif sort == "image_url":
            url = part.get("image_url")
            url = url.get("url") if isinstance(url, dict) else url
            if not isinstance(url, str):
                raise _bad("invalid message format")
            images.append(image(url))
        elif sort == "input_audio":
            raise _bad("invalid input_audio format")
        else:
            raise _bad("invalid message format")
    told: dict[str, Any] = {"content": "\n".join(texts)}
    return {**told, "images": images} if images else told


def _call(call: Fields) -> dict[str, Any]:
    function = call.get("function") or {}
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except ValueError:
        raise _bad("invalid tool call arguments") from None
    if not isinstance(arguments, dict):
        raise _bad("invalid tool call arguments")
    return {
        "id": call.get("id", ""),
        "function": {
            "index": call.get("index", 0),
            "name": function.get("name", ""),
            "arguments": arguments,
        },
    }


def _format(wanted: Fields | None) -> Any:
    if not wanted:
        return None
    if wanted.get("type") == "json_object":
        return "json"
    schema = wanted.get("json_schema")
    if wanted.get("type") == "json_schema" and isinstance(schema, dict):
        return schema.get("schema")
    return None


def _choices(found: Fields) -> int:
    return int(min(128, max(1, found.get("n", 1))))


def _extra(found: Fields) -> dict[str, Any]:
    extra: dict[str, Any] = {}
    if found.get("logit_bias"):
        bias = {}
        for token, value in found["logit_bias"].items():
            if not token.lstrip("-").isdigit() or not isinstance(value, int | float):
                raise _bad("logit_bias must map token ids to numbers")
            bias[token] = value
        extra["logit_bias"] = bias
    if "parallel_tool_calls" in found and found.get("tools"):
        extra["parallel_tool_calls"] = found["parallel_tool_calls"]
    return extra


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_token(item) for item in value)


def _go_name(value: Any) -> str:
    if value is None:
        return "<nil>"
    return _GO_NAMES.get(type(value), "[]interface {}" if isinstance(value, list) else "string")


def _bad(message: str) -> Refusal:
    return Refusal(400, message, early=True)
