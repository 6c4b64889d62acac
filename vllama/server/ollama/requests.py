"""Ollama's native requests, checked in Ollama's order, become asks."""

from collections.abc import Mapping
from typing import Any

import msgspec

from vllama.server.relay.refusal import Refusal
from vllama.server.translation import options
from vllama.server.translation.ask import Ask
from vllama.server.translation.models import full
from vllama.server.web import gojson
from vllama.server.web.gotypes import Record, WrongType, unmarshal
from vllama.store.card import Card

Fields = Mapping[str, Any]
_TYPES = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
NO_VISION = (
    '{"error":{"code":400,"message":"Multimodal data provided, but model does not support'
    ' multimodal requests.","type":"invalid_request_error"}}'
)


def fields(body: bytes, record: Record, *, empty: str = "missing request body") -> dict[str, Any]:
    """A body's fields.

    Raises:
        Refusal: with the decoder's text; `empty` when there is no body.
    """
    try:
        return unmarshal(gojson.decode(body), record)
    except gojson.NoBody:
        raise Refusal(400, empty, early=True) from None
    except (gojson.Malformed, WrongType) as error:
        raise Refusal(400, str(error), early=True) from None


def check_top_logprobs(found: Fields) -> None:
    """Only a few alternatives may be asked for."""
    if not 0 <= found.get("top_logprobs", 0) <= 20:
        raise Refusal(400, "top_logprobs must be between 0 and 20")


def unloads(found: Fields) -> bool:
    """Whether a request without work asks to let the model go."""
    return found.get("keep_alive") == 0


def generate(found: Fields, key: str, card: Card | None) -> Ask:
    """The ask of `/api/generate` with a prompt."""
    model = found["model"]
    raw = bool(found.get("raw"))
    suffix = found.get("suffix", "")
    check_able(card, model, "generate", think=found.get("think"))
    if raw and any(found.get(name) for name in ("template", "system", "context")):
        raise Refusal(400, "raw mode does not support template, system, or context")
    if suffix and card is not None and "insert" not in card.capabilities:
        raise Refusal(400, f"{full(card, model)} does not support insert")
    images = found.get("images") or []
    check_images(card, images)
    context = found.get("context") or []
    messages: list[Fields] = []
    system = found.get("system") or (card.system if card is not None else "")
    if system:
        messages.append({"role": "system", "content": system})
    if card is not None and not context:
        messages += card.messages
    last: dict[str, Any] = {"role": "user", "content": found.get("prompt", "")}
    if images:
        last["images"] = images
    messages.append(last)
    return Ask(
        messages=tuple(messages),
        raw=found.get("prompt", "") if raw else None,
        rendered=True,
        tokens=not raw,
        context=tuple(token for token in context if token is not None),
        template=found.get("template") or None,
        suffix=suffix,
        **common(found, key, card),
    )


def chat(found: Fields, key: str, card: Card | None, **more: Any) -> Ask:
    """The ask of `/api/chat` with messages; `more` is what only other APIs ask for."""
    model = found["model"]
    tools = tuple(tool for tool in found.get("tools") or () if tool is not None)
    check_able(card, model, "chat", think=found.get("think"), tools=bool(tools))
    messages = with_card(
        [
            {**message, "role": message.get("role", "").lower()}
            for message in found.get("messages") or ()
            if message is not None
        ],
        card,
    )
    check_images(card, [image for m in messages for image in m.get("images") or ()])
    return Ask(messages=tuple(messages), tools=tools, **common(found, key, card), **more)


def with_card(messages: list[dict[str, Any]], card: Card | None) -> list[Fields]:
    """The model's own messages first, and its system message if there is no other."""
    if card is None:
        return list(messages)
    found: list[Fields] = [*card.messages, *messages]
    if card.system and not (messages and messages[0].get("role") == "system"):
        found.insert(0, {"role": "system", "content": card.system})
    return found


def common(found: Fields, key: str, card: Card | None) -> dict[str, Any]:
    """What all asks have in common."""
    think = found.get("think")
    if think is None and card is not None and "thinking" in card.capabilities:
        # Unset means on; Jinja templates say so themselves.
        think = True if card.template_kind == "go" else None
    return {
        "model": found["model"],
        "key": key,
        "card": card,
        "options": options.merged(
            card.parameters if card is not None else {}, found.get("options") or {}
        ),
        "think": think,
        "format": checked_format(found.get("format")),
        "logprobs": bool(found.get("logprobs")),
        "top_logprobs": found.get("top_logprobs", 0),
        "stream": found.get("stream", True),
        "truncate": found.get("truncate", True),
        "shift": found.get("shift", True),
        "keep_alive_s": found.get("keep_alive"),
    }


def check_able(
    card: Card | None, model: str, work: str, *, think: Any = None, tools: bool = False
) -> None:
    """Whether the model can do what is asked, where that is known.

    Raises:
        Refusal: with Ollama's text.
    """
    if card is None:
        return
    if "completion" not in card.capabilities:
        raise Refusal(400, f'"{model}" does not support {work}')
    if tools and "tools" not in card.capabilities:
        raise Refusal(400, f"{full(card, model)} does not support tools")
    if think and "thinking" not in card.capabilities:
        raise Refusal(400, f'"{model}" does not support thinking')


def check_images(card: Card | None, images: list[Any]) -> None:
    """Images need eyes."""
    if images and card is not None and "vision" not in card.capabilities:
        raise Refusal(400, NO_VISION)


def checked_format(value: Any) -> Any:
    """None, `json`, or a schema."""
    if value is None or value == "":
        return None
    if value == "json":
        return value
    if isinstance(value, dict):
        _check_schema(value)
        return value
    shown = msgspec.json.encode(value).decode()
    quoted = msgspec.json.encode(shown).decode()
    raise Refusal(500, f'invalid format: {quoted}; expected "json" or a valid JSON Schema object')


def _check_schema(schema: Any) -> None:
    """Refuse types that are none, in the words of Ollama's runner."""
    if isinstance(schema, list):
        for each in schema:
            _check_schema(each)
    if not isinstance(schema, dict):
        return
    kind = schema.get("type")
    if isinstance(kind, str) and kind not in _TYPES:
        shown = msgspec.json.encode(schema).decode()
        message = (
            "Field 'json_schema': \"json_schema\": JSON schema conversion failed:\n"
            f"Unrecognized schema: {shown}"
        )
        error = {"code": 400, "message": message, "type": "invalid_request_error"}
        raise Refusal(400, msgspec.json.encode({"error": error}).decode())
    for name in ("properties", "$defs", "definitions"):
        if isinstance(schema.get(name), dict):
            _check_schema(list(schema[name].values()))
    for name in ("items", "anyOf", "oneOf", "allOf", "prefixItems", "additionalProperties"):
        _check_schema(schema.get(name))
