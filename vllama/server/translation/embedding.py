"""Embedding texts: cut to what fits, sent to the engine together, normalised here."""

import math
from dataclasses import dataclass
from typing import Any

from vllama.server.lifecycle.pool import Pool
from vllama.server.lifecycle.runner import Lease
from vllama.server.relay import relay
from vllama.server.relay.refusal import Refusal, engine_message, of_engine
from vllama.server.translation import engine_calls
from vllama.server.translation.reading import now_ns
from vllama.store.card import Card

# What Ollama's runner says of a model that does not embed.
NO_EMBEDDINGS = "This server does not support embeddings. Start it with `--embeddings`"
TOO_LONG = "the input length exceeds the context length"
Vector = list[float]


@dataclass(frozen=True, slots=True)
class Wish:
    """Texts to embed. `num_ctx` 0 is whatever the engine has; `is_raw` leaves vectors as made."""

    key: str
    card: Card | None
    texts: tuple[str, ...]
    truncate: bool = True
    num_ctx: int = 0
    dimensions: int = 0
    is_raw: bool = False
    keep_alive_s: float | None = None


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors, in the order of the texts; times in nanoseconds."""

    vectors: list[Vector]
    tokens: int
    total_ns: int
    load_ns: int


async def embed(wish: Wish, pool: Pool) -> Embedded:
    """The vectors of all texts.

    Raises:
        Refusal: the model does not embed, or a text does not fit.
    """
    began_ns = now_ns()
    if wish.card is not None and "embedding" not in wish.card.capabilities:
        raise Refusal(500, NO_EMBEDDINGS)
    async with pool.lease(wish.key, wish.keep_alive_s) as lease:
        load_ns = max(1, int(lease.waited_s * 1e9))
        texts = [await _fitted(text, wish, lease) for text in wish.texts]
        document = await _asked(lease, texts, wish) if texts else {"data": [], "usage": {}}
    data = sorted(document.get("data") or [], key=lambda each: each.get("index", 0))
    vectors = [_shaped(each["embedding"], wish) for each in data]
    tokens = int((document.get("usage") or {}).get("prompt_tokens") or 0)
    return Embedded(vectors, tokens, now_ns() - began_ns, load_ns)


async def _asked(lease: Lease, texts: list[str], wish: Wish) -> Any:
    body: dict[str, Any] = {
        "model": lease.endpoint.model,
        "input": texts,
        "encoding_format": "float",
    }
    if wish.is_raw and engine_calls.is_llamacpp(lease):
        body["embd_normalize"] = -1
    if wish.is_raw and engine_calls.is_vllm(lease):
        body["use_activation"] = False
    reply = await relay.fetch(lease, engine_calls.post("/v1/embeddings", body))
    if reply.status == 200:
        return engine_calls.document(reply)
    message = engine_message(reply.body)
    if reply.status in (404, 501) or "support embeddings" in message:
        raise Refusal(500, NO_EMBEDDINGS)
    if any(sign in message for sign in ("too large to process", "too long", "context")):
        raise Refusal(400, TOO_LONG)
    raise of_engine(reply)


async def _fitted(text: str, wish: Wish, lease: Lease) -> str:
    """The text, cut at the end if it must be and may be."""
    limit = await engine_calls.window(lease)
    batch = lease.profile.options.get("n_ubatch")
    if engine_calls.is_llamacpp(lease) and isinstance(batch, int) and batch > 0:
        limit = min(limit or batch, batch)
    if wish.num_ctx > 0:
        limit = min(limit or wish.num_ctx, wish.num_ctx)
    if not limit or at_most(text) <= limit:
        return text
    whole = await engine_calls.tokenize(lease, text)
    if len(whole) <= limit:
        return text
    if not wish.truncate:
        raise Refusal(400, TOO_LONG)
    bare = await engine_calls.tokenize(lease, text, special=False)
    room = limit - (len(whole) - len(bare))
    if room < 1:
        raise Refusal(400, "input after truncation exceeds maximum context length")
    return await engine_calls.detokenize(lease, bare[:room])


def at_most(text: str) -> int:
    """The most tokens it can have: one for each byte, and a few at the ends."""
    return len(text.encode("utf-8", "replace")) + 4


def _shaped(vector: Vector, wish: Wish) -> Vector:
    if not all(map(math.isfinite, vector)):
        raise Refusal(400, "embedding contains NaN or Inf values")
    if wish.is_raw:
        return vector
    if 0 < wish.dimensions < len(vector):
        vector = vector[: wish.dimensions]
    norm = math.sqrt(math.fsum(value * value for value in vector))
    return [float(f"{value / norm:.9g}") for value in vector] if norm else vector
