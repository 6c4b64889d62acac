"""A SentencePiece model's file, `tokenizer.model`, read without its library.

The form is a protocol buffer; https://protobuf.dev/programming-guides/encoding
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllama.errors import ModelBroken

BPE = 2
_REMEDY = "Fetch the file again: it is corrupt or its download was not finished."


@dataclass(frozen=True, slots=True)
class Pieces:
    """The vocabulary: each piece with its score and type (GGUF's numbers are the same).

    `is_plain` says that nothing is done to text but marking its spaces.
    """

    pieces: tuple[tuple[str, float, int], ...]
    model_type: int
    adds_prefix: bool
    is_plain: bool
    specials: dict[str, int]


def read(path: Path) -> Pieces:
    """Read the file.

    Raises:
        ModelBroken: it is none.
    """
    try:
        whole = list(_fields(path.read_bytes()))
        pieces = tuple(_piece(dict(_fields(v))) for number, v in whole if number == 1)
        trainer = _of(whole, 2)
        normalizer = _of(whole, 3)
    except (ValueError, IndexError, struct.error, KeyError, TypeError) as error:
        raise ModelBroken(f"{path} is no SentencePiece model: {error}", _REMEDY) from error
    if not pieces:
        raise ModelBroken(f"{path} is no SentencePiece model: it has no pieces", _REMEDY)
    defaults = {"unk": 0, "bos": 1, "eos": 2, "pad": -1}
    specials = {n: _signed(trainer.get(40 + i, defaults[n])) for i, n in enumerate(defaults)}
    return Pieces(
        pieces,
        int(trainer.get(3, 1)),
        bool(normalizer.get(3, 1)),
        not normalizer.get(2) and not normalizer.get(4, 1),
        {name: number for name, number in specials.items() if number >= 0},
    )


def _of(fields: list[tuple[int, Any]], wanted: int) -> dict[int, Any]:
    return next((dict(_fields(value)) for number, value in fields if number == wanted), {})


def _piece(fields: dict[int, Any]) -> tuple[str, float, int]:
    score = struct.unpack("<f", fields[2])[0] if 2 in fields else 0.0
    return fields.get(1, b"").decode(), score, int(fields.get(3, 1))


def _fields(raw: bytes) -> Iterator[tuple[int, Any]]:
    """Field numbers with their values: a number, or bytes."""
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(raw, at)
            yield number, value
            continue
        size, at = _varint(raw, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
        if at + size > len(raw):
            raise ValueError("it is cut short")
        yield number, raw[at : at + size]
        at += size


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
