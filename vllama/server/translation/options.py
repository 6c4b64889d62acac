"""Ollama's options: their types, defaults, and which of them each engine can honour."""

import logging
from collections.abc import Mapping
from typing import Any, TypeAlias

from vllama.server.relay.refusal import Refusal

log = logging.getLogger(__name__)
Options: TypeAlias = Mapping[str, Any]

INTEGER, FLOAT, BOOLEAN, STRINGS = "integer", "float32", "boolean", "array"
TYPES = {
    "num_keep": INTEGER,
    "seed": INTEGER,
    "num_predict": INTEGER,
    "top_k": INTEGER,
    "top_p": FLOAT,
    "min_p": FLOAT,
    "typical_p": FLOAT,
    "repeat_last_n": INTEGER,
    "temperature": FLOAT,
    "repeat_penalty": FLOAT,
    "presence_penalty": FLOAT,
    "frequency_penalty": FLOAT,
    "stop": STRINGS,
    "num_ctx": INTEGER,
    "num_batch": INTEGER,
    "num_gpu": INTEGER,
    "main_gpu": INTEGER,
    "use_mmap": BOOLEAN,
    "num_thread": INTEGER,
    "draft_num_predict": INTEGER,
}
DEFAULTS: Options = {
    "num_keep": 4,
    "seed": -1,
    "num_predict": -1,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repeat_last_n": 64,
    "temperature": 0.8,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "stop": (),
}
# Decided by the profile when the engine starts: a request never restarts it.
RUNNER = frozenset(
    {"num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict"}
)


def merged(parameters: Options, requested: Options) -> Options:
    """The options in force: Ollama's defaults, under the model's, under the request's.

    Raises:
        Refusal: with Ollama's text for the first option of a wrong type.
    """
    if not parameters and not requested:
        return DEFAULTS
    return {**DEFAULTS, **_checked(parameters), **_checked(requested)}


def _checked(options: Options) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in options.items():
        wanted = TYPES.get(name)
        if wanted is None:
            log.warning("invalid option provided: %s", name)
        elif value is not None:
            found[name] = _converted(name, value, wanted)
    return found


def _converted(name: str, value: Any, wanted: str) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if wanted == INTEGER and is_number and abs(value) < 2**63:
        return int(value)
    if wanted == FLOAT and is_number:
        return float(value)
    if wanted == BOOLEAN and isinstance(value, bool):
        return value
    if wanted == STRINGS and isinstance(value, list | tuple):
        if all(isinstance(item, str) for item in value):
            return tuple(value)
        raise Refusal(500, f'option "{name}" must be of an array of strings')
    raise _wrong(name, wanted)


def _wrong(name: str, wanted: str) -> Refusal:
    return Refusal(500, f'option "{name}" must be of type {wanted}')
