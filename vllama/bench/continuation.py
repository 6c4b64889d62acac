"""Continuation: what an engine says next, greedily, after each of several prompts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from vllama.bench.connection import Connection
from vllama.engines.engine import Endpoint
from vllama.errors import EngineFailed

# What an engine reports of a token that it holds for impossible, as far as that is a number.
_NEVER = -100.0
# The prompt does not fit the context of these options.
_TOO_LONG = (400, 413, 422)


@dataclass(frozen=True, slots=True)
class Continuation:
    """The tokens that came, each with the logarithm of its probability; none when refused."""

    tokens: tuple[str, ...] = ()
    logprobs: tuple[float, ...] = ()


async def listen(endpoint: Endpoint, prompts: Sequence[str], tokens: int) -> list[Continuation]:
    """The engine's own choice after each prompt, `tokens` long.

    One prompt at a time: in batches of other sizes the same numbers are added up in another
    order, and near ties fall the other way.

    Raises:
        EngineFailed: it does not answer, or does not say how probable its tokens were.
    """
    connection = Connection(endpoint)
    try:
        return [await _continuation(connection, endpoint.model, p, tokens) for p in prompts]
    finally:
        connection.close()


async def _continuation(
    connection: Connection, model: str, prompt: str, tokens: int
) -> Continuation:
    body = {
        "model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0.0,
        "logprobs": 1, "ignore_eos": True, "stream": False,
    }  # fmt: skip
    status, answer = await connection.post("/v1/completions", body)
    if status in _TOO_LONG:
        return Continuation()
    if status != 200:
        raise EngineFailed(f"it did not continue a text (HTTP {status})", phase="run")
    try:
        return read(msgspec.json.decode(answer)["choices"][0]["logprobs"])
    except (msgspec.DecodeError, LookupError, TypeError, ValueError) as error:
        raise EngineFailed(
            "it does not say how probable its tokens are", kind="bad_option", phase="run"
        ) from error


def read(logprobs: Mapping[str, Any]) -> Continuation:
    """From what stands under `logprobs`: vLLM's columns, or llama.cpp's rows."""
    rows = logprobs.get("content")
    if rows is not None:
        tokens, values = [r["token"] for r in rows], [r["logprob"] for r in rows]
    else:
        tokens, values = logprobs["tokens"], logprobs["token_logprobs"]
    return Continuation(tuple(map(str, tokens)), tuple(map(_finite, values)))


def _finite(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else _NEVER
