"""Small questions to an engine, in its own dialect: its window, tokens of a text, and back."""

from typing import Any

import msgspec

from vllama.errors import EngineFailed
from vllama.server.lifecycle.runner import Lease
from vllama.server.relay import relay
from vllama.server.relay.exchange import Call, Reply
from vllama.server.relay.refusal import Refusal, of_engine


def is_llamacpp(lease: Lease) -> bool:
    """Whether it speaks llama.cpp's dialect, also where somebody else runs it."""
    endpoint = lease.endpoint
    return bool(endpoint.facts.get("engine", endpoint.engine) == "llamacpp")


def is_vllm(lease: Lease) -> bool:
    """Whether it speaks vLLM's dialect, also where somebody else runs it."""
    endpoint = lease.endpoint
    return bool(endpoint.facts.get("engine", endpoint.engine) == "vllm")


def post(path: str, document: Any) -> Call:
    """A call with a JSON body."""
    return Call(path.encode(), msgspec.json.encode(document))


async def ask(lease: Lease, call: Call) -> Any:
    """The document that the engine answers.

    Raises:
        Refusal: it refused.
        EngineFailed: it cannot be reached, or what it says is no JSON.
    """
    reply = await relay.fetch(lease, call)
    if reply.status != 200:
        raise of_engine(reply)
    return document(reply)


async def window(lease: Lease) -> int:
    """How many tokens one request may have here, prompt and answer; 0 when it does not say."""
    for name in ("max_model_len", "n_ctx_slot"):
        if name in lease.endpoint.facts:
            return int(lease.endpoint.facts[name])
    notes = lease.uplinks.notes
    if "window" not in notes:
        notes["window"] = await _asked_window(lease)
    return notes["window"]


async def tokenize(lease: Lease, text: str, *, special: bool = True) -> list[int]:
    """The tokens of a text; control tokens in it count as such.

    `special` adds what the model wants at the beginning.

    Raises:
        Refusal: the engine cannot.
    """
    if is_llamacpp(lease):
        body = {"content": text, "add_special": special, "parse_special": True}
    else:
        body = {"model": lease.endpoint.model, "prompt": text, "add_special_tokens": special}
    tokens = (await ask(lease, post("/tokenize", body))).get("tokens")
    if not isinstance(tokens, list):
        raise Refusal(501, f"{lease.endpoint.engine} does not tokenize")
    # A template may bring the token that the engine adds as well.
    return tokens[1:] if special and len(tokens) > 1 and tokens[0] == tokens[1] else tokens


async def detokenize(lease: Lease, tokens: list[int]) -> str:
    """The text of tokens."""
    document = await ask(
        lease, post("/detokenize", {"model": lease.endpoint.model, "tokens": tokens})
    )
    text = document.get("content", document.get("prompt", ""))
    return text if isinstance(text, str) else ""


async def _asked_window(lease: Lease) -> int:
    if is_llamacpp(lease):
        document = await ask(lease, Call(b"/props", b"", b"GET", ()))
        return int((document.get("default_generation_settings") or {}).get("n_ctx") or 0)
    try:
        document = await ask(lease, Call(b"/v1/models", b"", b"GET", ()))
        first = document["data"][0]
        return int(first.get("max_model_len") or (first.get("meta") or {}).get("n_ctx") or 0)
    except (Refusal, KeyError, IndexError, TypeError, AttributeError):
        return 0


def document(reply: Reply) -> Any:
    """The JSON of an answer.

    Raises:
        EngineFailed: it is none.
    """
    try:
        return msgspec.json.decode(reply.body)
    except msgspec.DecodeError as error:
        raise EngineFailed(f"the engine's answer is no JSON: {error}") from error
