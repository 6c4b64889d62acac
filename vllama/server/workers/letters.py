"""What worker processes and the owner of the engines write to each other: lines of JSON."""

import asyncio
from typing import Any

import msgspec

from vllama import errors
from vllama.engines.engine import Endpoint, Immortal
from vllama.errors import EngineFailed, ModelNotFound, VllamaError
from vllama.server.lifecycle.member import Unavailable
from vllama.server.lifecycle.pool import PoolBusy

Letter = dict[str, Any]
LIMIT = 64 * 1024 * 1024
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict).decode


class Line:
    """One end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def write(self, letter: Letter) -> None:
        """Send one; a peer that has gone is noticed when reading."""
        self._writer.write(_encode(letter) + b"\n")

    async def read(self) -> Letter | None:
        """The next one, None when the peer has gone."""
        try:
            line = await self._reader.readline()
        except (ConnectionError, ValueError):
            return None
        return _decode(line) if line.endswith(b"\n") else None

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


def endpoint_letter(endpoint: Endpoint) -> Letter:
    """An endpoint without its life, which only its owner watches."""
    return {
        "base_url": endpoint.base_url, "model": endpoint.model, "engine": endpoint.engine,
        "api": endpoint.api, "version": endpoint.version, "command": list(endpoint.command),
        "start_s": endpoint.start_s, "facts": dict(endpoint.facts),
    }  # fmt: skip


def endpoint_of(letter: Letter) -> Endpoint:
    """What `endpoint_letter` wrote."""
    return Endpoint(**{**letter, "command": tuple(letter["command"])}, life=Immortal())


def error_letter(error: VllamaError) -> Letter:
    """An error with what its kind adds."""
    told = {"type": type(error).__name__, "message": error.message, "remedy": error.remedy}
    for name in ("kind", "retry_after_s", "name", "near"):
        if hasattr(error, name):
            told[name] = getattr(error, name)
    return told


def error_of(letter: Letter) -> VllamaError:
    """The same kind of error, or the nearest that is known here."""
    kind, message, remedy = letter["type"], letter["message"], letter["remedy"]
    if kind in ("PoolBusy", "Unavailable"):
        made = PoolBusy if kind == "PoolBusy" else Unavailable
        return made(message, remedy, letter["retry_after_s"])
    if kind == "ModelNotFound":
        return ModelNotFound(letter["name"], letter["near"])
    if kind == "EngineFailed":
        return EngineFailed(message, remedy, kind=letter["kind"])
    known = getattr(errors, kind, VllamaError)
    is_plain = isinstance(known, type) and issubclass(known, VllamaError)
    return (known if is_plain else VllamaError)(message, remedy)
