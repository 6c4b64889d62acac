"""What Ollama's native requests look like: every field, with its type in Go's words."""

import re
from typing import Any

from vllama import durations
from vllama.server.web.gotypes import (
    ANYTHING,
    OBJECT,
    TEXT,
    TEXTS,
    TRUTH,
    WHOLE,
    Kind,
    Map,
    Own,
    Place,
    Record,
    Slice,
    WrongType,
    kind,
)

# Go's longest duration.
_LONGEST_S = (2**63 - 1) / 1e9
LEVELS = ("high", "medium", "low", "max")
_GO_NAMES = {"bool": "bool", "array": "[]interface {}", "object": "map[string]interface {}"}
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/\r\n]")


def bad_base64_at(text: str) -> int | None:
    """The index that Go's decoder complains about; None when the text is base64."""
    body = text.rstrip("\r\n").rstrip("=")
    stray = _NOT_BASE64.search(body)
    if stray is not None:
        return stray.start()
    used = re.sub(r"[\r\n]", "", body)
    padding = len(text.rstrip("\r\n")) - len(body)
    left = len(used) % 4
    if left == 0:
        return len(body) if padding else None
    if left == 1 or padding > 4 - left:
        return len(body) - left if left == 1 else len(body)
    return None if padding == 4 - left else len(body) - left


class _Image:
    """Base64, kept as such."""

    def read(self, value: Any, place: Place, /) -> Any:
        if not isinstance(value, str):
            return place.mismatch(value, "api.ImageData")
        at = bad_base64_at(value)
        if at is None:
            return value
        fault = f"illegal base64 data at input byte {at}"
        if place.struct == "Alias":
            raise WrongType(fault)
        raise WrongType(
            f"json: cannot unmarshal string into {place.struct}.{place.path}"
            f" of type api.ImageData: {fault}"
        )


def keep_alive(value: Any) -> float:
    """Seconds; negative ones, and more than Go can count, mean for ever."""
    if isinstance(value, str):
        try:
            seconds = durations.parse(value)
        except ValueError as error:
            raise WrongType(str(error)) from None
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        raise WrongType(f"Unsupported type: '{_GO_NAMES[kind(value)]}'")
    return durations.FOREVER if seconds < 0 or seconds > _LONGEST_S else seconds


def think(value: Any) -> bool | str:
    """True, False, or a level."""
    if isinstance(value, bool):
        return value
    choices = '"high", "medium", "low", "max", true, or false'
    if not isinstance(value, str):
        raise WrongType(f"think must be a boolean or string ({choices})")
    if value not in LEVELS:
        raise WrongType(f'invalid think value: "{value}" (must be {choices})')
    return value


def _arguments(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WrongType("Value looks like object, but can't find closing '}' symbol")
    return value


def _property_type(value: Any) -> Any:
    if isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(item, str) for item in value)
    ):
        return value
    raise WrongType(f"invalid property type: {kind(value)}")


IMAGES = Slice(_Image(), "[]api.ImageData", shows_index=True)
_PROPERTY_FIELDS: dict[str, Kind] = {
    "anyOf": ANYTHING,
    "type": Own(_property_type),
    "items": ANYTHING,
    "description": TEXT,
    "enum": Slice(ANYTHING, "[]interface {}"),
    "required": TEXTS,
}
_PROPERTY = Record("ToolProperty", "api.ToolProperty", _PROPERTY_FIELDS)
_PROPERTY_FIELDS["properties"] = Map("map[string]api.ToolProperty", _PROPERTY)
_PARAMETERS = Record(
    "ToolFunctionParameters",
    "api.ToolFunctionParameters",
    {
        "type": TEXT,
        "$defs": ANYTHING,
        "items": ANYTHING,
        "required": TEXTS,
        "properties": Map("map[string]api.ToolProperty", _PROPERTY),
    },
)
_FUNCTION = Record(
    "ToolFunction",
    "api.ToolFunction",
    {"name": TEXT, "description": TEXT, "parameters": _PARAMETERS},
)
TOOL = Record("Tool", "api.Tool", {"type": TEXT, "items": ANYTHING, "function": _FUNCTION})
TOOLS = Slice(TOOL, "api.Tools")
_CALL = Record(
    "ToolCall",
    "api.ToolCall",
    {
        "id": TEXT,
        "function": Record(
            "ToolCallFunction",
            "api.ToolCallFunction",
            {"index": WHOLE, "name": TEXT, "arguments": Own(_arguments)},
        ),
    },
)
MESSAGE = Record(
    "Message",
    "api.Message",
    {
        "role": TEXT,
        "content": TEXT,
        "thinking": TEXT,
        "images": IMAGES,
        "tool_calls": Slice(_CALL, "[]api.ToolCall"),
        "tool_name": TEXT,
        "tool_call_id": TEXT,
    },
    own_decoder="Alias",
)
MESSAGES = Slice(MESSAGE, "[]api.Message")
_GENERATION: dict[str, Kind] = {
    "model": TEXT,
    "stream": TRUTH,
    "format": ANYTHING,
    "keep_alive": Own(keep_alive),
    "options": OBJECT,
    "think": Own(think),
    "truncate": TRUTH,
    "shift": TRUTH,
    "logprobs": TRUTH,
    "top_logprobs": WHOLE,
    "_debug_render_only": TRUTH,
}
GENERATE = Record(
    "GenerateRequest",
    "api.GenerateRequest",
    {
        **_GENERATION,
        "prompt": TEXT,
        "suffix": TEXT,
        "system": TEXT,
        "template": TEXT,
        "context": Slice(WHOLE, "[]int"),
        "raw": TRUTH,
        "images": IMAGES,
    },
)
CHAT = Record(
    "ChatRequest", "api.ChatRequest", {**_GENERATION, "messages": MESSAGES, "tools": TOOLS}
)
EMBED = Record(
    "EmbedRequest",
    "api.EmbedRequest",
    {
        "model": TEXT,
        "input": ANYTHING,
        "keep_alive": Own(keep_alive),
        "truncate": TRUTH,
        "dimensions": WHOLE,
        "options": OBJECT,
    },
)
EMBEDDINGS = Record(
    "EmbeddingRequest",
    "api.EmbeddingRequest",
    {"model": TEXT, "prompt": TEXT, "keep_alive": Own(keep_alive), "options": OBJECT},
)
SHOW = Record(
    "ShowRequest",
    "api.ShowRequest",
    {
        "model": TEXT,
        "name": TEXT,
        "system": TEXT,
        "template": TEXT,
        "verbose": TRUTH,
        "options": OBJECT,
    },
)
_TRANSFER: dict[str, Kind] = {
    "model": TEXT,
    "name": TEXT,
    "insecure": TRUTH,
    "username": TEXT,
    "password": TEXT,
    "stream": TRUTH,
}
PULL = Record("PullRequest", "api.PullRequest", _TRANSFER)
PUSH = Record("PushRequest", "api.PushRequest", _TRANSFER)
DELETE = Record("DeleteRequest", "api.DeleteRequest", {"model": TEXT, "name": TEXT})
COPY = Record("CopyRequest", "api.CopyRequest", {"source": TEXT, "destination": TEXT})
_DIGESTS = Map("map[string]string", TEXT)
CREATE = Record(
    "CreateRequest",
    "api.CreateRequest",
    {
        "model": TEXT,
        "name": TEXT,
        "stream": TRUTH,
        "quantize": TEXT,
        "quantization": TEXT,
        "draft_quantize": TEXT,
        "from": TEXT,
        "remote_host": TEXT,
        "files": _DIGESTS,
        "adapters": _DIGESTS,
        "draft_files": _DIGESTS,
        "template": TEXT,
        "license": ANYTHING,
        "system": TEXT,
        "parameters": OBJECT,
        "messages": MESSAGES,
        "renderer": TEXT,
        "parser": TEXT,
        "requires": TEXT,
        "info": OBJECT,
    },
)
# What vllama has and Ollama lacks.
TOKENIZE = Record(
    "TokenizeRequest",
    "api.TokenizeRequest",
    {
        "model": TEXT,
        "content": TEXT,
        "text": TEXT,
        "prompt": TEXT,
        "add_special": TRUTH,
        "keep_alive": Own(keep_alive),
    },
)
DETOKENIZE = Record(
    "DetokenizeRequest",
    "api.DetokenizeRequest",
    {"model": TEXT, "tokens": Slice(WHOLE, "[]int"), "keep_alive": Own(keep_alive)},
)
RERANK = Record(
    "RerankRequest",
    "api.RerankRequest",
    {
        "model": TEXT,
        "query": TEXT,
        "documents": Slice(ANYTHING, "[]interface {}"),
        "top_n": WHOLE,
        "return_documents": TRUTH,
        "keep_alive": Own(keep_alive),
    },
)
