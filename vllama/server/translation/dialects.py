"""Dialects: an ask in the words of vLLM, of llama.cpp, and of any OpenAI server."""

import base64
import json
from typing import Any, TypeAlias

from vllama.server.lifecycle.runner import Lease
from vllama.server.translation import tool_choice
from vllama.server.translation.ask import Ask
from vllama.server.translation.engine_calls import is_llamacpp, is_vllm
from vllama.store import hub_form

_MAGIC = (
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)
# vLLM takes no more of them in a request.
VLLM_STOPS = 4
VLLM_HOTTEST = 2.0
# The smallest nucleus: vLLM refuses 0, which means the same.
_NARROWEST = 1e-6
Prompt: TypeAlias = str | list[int] | list[str | list[int]]
FORBIDDEN = -100
# How far back a penalty looks that knows no limit; the engine sets aside room for as many.
_MANY_TOKENS = 32_768
ANY_OBJECT = {"type": "object"}


def chat_body(ask: Ask, lease: Lease, window: int) -> dict[str, Any]:
    """For `/v1/chat/completions`: the engine renders the messages."""
    thinking = "reasoning_content" if is_llamacpp(lease) else "reasoning"
    body: dict[str, Any] = {
        "model": lease.endpoint.model,
        "messages": chat_messages(ask, thinking),
        **_common(ask, lease),
    }
    if ask.tools:
        body |= _tools(ask, lease)
    if ask.card is None or "thinking" in ask.card.capabilities:
        switches = hub_form.switches(ask.thinking)
        if switches:
            body["chat_template_kwargs"] = switches
        if isinstance(ask.think, str):
            body["reasoning_effort"] = hub_form.effort(ask.think)
    if ask.logprobs:
        body["logprobs"] = True
        if ask.top_logprobs:
            body["top_logprobs"] = ask.top_logprobs
    tokens = _max_tokens(ask, window)
    if tokens:
        body["max_tokens"] = tokens
    _constrain(body, ask, lease)
    return body


def completion_body(
    ask: Ask, lease: Lease, prompt: Prompt, window: int, room: int
) -> dict[str, Any]:
    """For `/v1/completions`, where `max_tokens` must be said: it is 16 otherwise."""
    body: dict[str, Any] = {
        "model": lease.endpoint.model,
        "prompt": prompt,
        **_common(ask, lease),
    }
    tokens = _max_tokens(ask, window) or window
    if room:
        tokens = min(tokens, room) if tokens else room
    if tokens:
        body["max_tokens"] = tokens
    if ask.logprobs:
        body["logprobs"] = ask.top_logprobs
    if is_vllm(lease):
        if ask.tokens:
            body["return_token_ids"] = True
        if ask.raw is None and ask.card is not None:
            is_go = ask.card.template_kind == "go" or ask.template is not None
            body["add_special_tokens"] = is_go
    _constrain(body, ask, lease)
    return body


def llama_body(ask: Ask, prompt: Prompt, room: int) -> dict[str, Any]:
    """For llama.cpp's `/completion`."""
    tokens = _max_tokens(ask, 0) or -1
    if room:
        tokens = min(tokens, room) if tokens > 0 else room
    body: dict[str, Any] = {
        "prompt": prompt,
        "stream": ask.stream,
        "cache_prompt": True,
        "n_predict": tokens,
        **_llama_sampling(ask),
    }
    if ask.tokens:
        body["return_tokens"] = True
    if ask.logprobs:
        body["n_probs"] = max(1, ask.top_logprobs)
        body["post_sampling_probs"] = False
    if ask.choices > 1:
        body["n_cmpl"] = ask.choices
    if ask.format:
        body["json_schema"] = _terse(ask.format)
    return {**body, **_llama_extra(ask)}


def unsent_stops(ask: Ask, lease: Lease) -> tuple[str, ...]:
    """The stop sequences that this engine is not told of, as it takes no more of them."""
    return () if is_llamacpp(lease) else _stops(ask)[VLLM_STOPS:]


def chat_messages(ask: Ask, thinking: str) -> list[dict[str, Any]]:
    """Ollama's messages as OpenAI's; `thinking` is what the engine calls that field."""
    found = []
    for message in hub_form.linked(ask.messages, ask.card.template if ask.card else ""):
        each: dict[str, Any] = {"role": message.get("role", "")}
        images = message.get("images") or ()
        content = message.get("content") or ""
        if images:
            # In front of the text, where Ollama and the families' own examples have them.
            parts: list[dict[str, Any]] = [{"type": "text", "text": content}] if content else []
            each["content"] = [*(_image_part(image) for image in images), *parts]
        else:
            each["content"] = content
        if message.get("thinking") and thinking:
            each[thinking] = message["thinking"]
        if message.get("tool_calls"):
            each["tool_calls"] = [_call(call) for call in message["tool_calls"]]
        if each["role"] == "tool":
            each["tool_call_id"] = message["tool_call_id"]
            if message.get("tool_name"):
                each["name"] = message["tool_name"]
        found.append(each)
    return found


def _tools(ask: Ask, lease: Lease) -> dict[str, Any]:
    tools, choice = ask.tools, ask.tool_choice
    if is_llamacpp(lease) and isinstance(choice, dict):
        # It knows no choice by name: the only tool there is comes to the same.
        only = tool_choice.named(ask)
        tools, choice = only or tools, tool_choice.REQUIRED if only else None
    body: dict[str, Any] = {"tools": [hub_form.tool(tool) for tool in tools]}
    return body if choice is None else {**body, "tool_choice": choice}


def _call(call: dict[str, Any]) -> dict[str, Any]:
    """A call with its arguments as text, as OpenAI has them."""
    arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return {**call, "function": {**call["function"], "arguments": arguments}}


def _image_part(image: str) -> dict[str, Any]:
    head = base64.b64decode(image[:64] + "=" * (-len(image[:64]) % 4))
    kind = next((name for magic, name in _MAGIC if head.startswith(magic)), "image/webp")
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{image}"}}


def _terse(wanted: Any) -> dict[str, Any]:
    """A schema that allows no runs of white space where llama.cpp was built with LLGuidance."""
    schema = ANY_OBJECT if wanted == "json" else wanted
    return {**schema, "x-guidance": {"whitespace_flexible": False}}


def _stops(ask: Ask) -> tuple[str, ...]:
    given = ask.options["stop"]
    return tuple(each for each in given if each) if given else ()


def _common(ask: Ask, lease: Lease) -> dict[str, Any]:
    body: dict[str, Any] = {"stream": ask.stream}
    if ask.stream:
        body["stream_options"] = {"include_usage": True}
        if is_vllm(lease) and unsent_stops(ask, lease):
            # The answer may be cut short here, and its tokens are to be counted all the same.
            body["stream_options"]["continuous_usage_stats"] = True
    if ask.choices > 1:
        body["n"] = ask.choices
    if is_llamacpp(lease):
        sampling = _llama_sampling(ask)
    elif is_vllm(lease):
        sampling = _vllm_sampling(ask)
    else:
        sampling = _openai_sampling(ask)
    extra = _llama_extra(ask) if is_llamacpp(lease) else ask.extra
    return {**body, **sampling, **extra}


def _llama_extra(ask: Ask) -> dict[str, Any]:
    """OpenAI's -100 forbids a token; llama.cpp adds it to logits of any size."""
    extra = dict(ask.extra)
    if "logit_bias" in extra:
        extra["logit_bias"] = [
            [int(token), False if bias <= FORBIDDEN else bias]
            for token, bias in ask.extra["logit_bias"].items()
        ]
    return extra


def _llama_sampling(ask: Ask) -> dict[str, Any]:
    names = (
        "temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_last_n", "repeat_penalty",
        "presence_penalty", "frequency_penalty",
    )  # fmt: skip
    body = {name: ask.options[name] for name in names}
    if body["repeat_last_n"] < 0:  # the whole context, which llama.cpp no longer takes so
        body["repeat_last_n"] = int(ask.options.get("num_ctx") or 0) or _MANY_TOKENS
    body["stop"] = list(ask.options["stop"])
    body["n_keep"] = ask.options["num_keep"]
    if ask.options["seed"] >= 0:
        body["seed"] = ask.options["seed"] % 2**32
    return body


def _openai_sampling(ask: Ask) -> dict[str, Any]:
    options = ask.options
    body = {
        "temperature": options["temperature"],
        "top_p": options["top_p"],
        "presence_penalty": options["presence_penalty"],
        "frequency_penalty": options["frequency_penalty"],
    }
    stop = _stops(ask)[:VLLM_STOPS]
    if stop:
        body["stop"] = list(stop)
    if options["seed"] >= 0:
        body["seed"] = options["seed"]
    return body


def _vllm_sampling(ask: Ask) -> dict[str, Any]:
    options = ask.options
    body = _openai_sampling(ask)
    body["temperature"] = min(max(0.0, options["temperature"]), VLLM_HOTTEST)
    body["top_p"] = min(1.0, max(_NARROWEST, options["top_p"]))
    body["top_k"] = max(0, options["top_k"])
    body["min_p"] = min(1.0, max(0.0, options["min_p"]))
    for name in ("presence_penalty", "frequency_penalty"):
        body[name] = min(2.0, max(-2.0, options[name]))
    body["repetition_penalty"] = options["repeat_penalty"] if options["repeat_penalty"] > 0 else 1.0
    if "seed" in body:
        body["seed"] %= 2**63
    return body


def _max_tokens(ask: Ask, window: int) -> int:
    """How many at most; 0 for as many as fit."""
    wanted = int(ask.options["num_predict"])
    if wanted <= 0:
        return 0
    return min(wanted, window) if window else wanted


def _constrain(body: dict[str, Any], ask: Ask, lease: Lease) -> None:
    if not ask.format:
        return
    if is_vllm(lease):
        # A weak model may write white space for ever inside JSON.
        rule = {"json_object": True} if ask.format == "json" else {"json": ask.format}
        body["structured_outputs"] = {**rule, "disable_any_whitespace": True}
    elif is_llamacpp(lease):
        body["json_schema"] = _terse(ask.format)
    elif ask.format == "json":
        body["response_format"] = {"type": "json_object"}
    else:
        schema = {"name": "answer", "schema": ask.format}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
