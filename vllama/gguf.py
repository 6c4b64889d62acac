"""GGUF metadata, read without the weights and without the long lists unless asked.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import functools
import math
import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllama.errors import ModelBroken

MAGIC = b"GGUF"
LONG = 16
ALIGNMENT = 32
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q",
            11: "<q", 12: "<d"}  # fmt: skip
_STRING, _ARRAY = 8, 9
# Name and (elements, bytes) of a block, by tensor type.
_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4),
    27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS",
    23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0",
    38: "MXFP4",
}  # fmt: skip
POOLING = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: its shape as GGUF orders it, innermost first; `offset` from the data's start."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int = 0

    @property
    def type_name(self) -> str:
        """Its type as llama.cpp writes it, such as `Q4_K`."""
        return _TYPES[self.type][0] if self.type in _TYPES else f"type {self.type}"

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Its size in the file; an unknown type counts as 16 bits an element."""
        _, elements, size = _TYPES.get(self.type, ("", 1, 2))
        return self.elements // elements * size


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says of itself. A long list not asked for is None."""

    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]


def read(path: Path, *, lists: bool = False) -> Header:
    """The header of a GGUF file; with `lists`, also the vocabulary and the like.

    A header is kept until its file changes: `show`, `tags` and the tuner ask for it again.

    Raises:
        ModelBroken: not a GGUF file, or cut short.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise ModelBroken(f"{path} cannot be read: {error.strerror}", _REMEDY) from error
    header = (_read if lists else _read_once)(path, lists, status.st_size, status.st_mtime_ns)
    rest = [t for part in parts(path)[1:] for t in read(part).tensors]
    return Header(header.metadata, (*header.tensors, *rest)) if rest else header


def parts(path: Path) -> list[Path]:
    """The files of a model that was split, given the first of them; else the file alone."""
    match = re.fullmatch(r"(.+)-00001-of-(\d{5})\.gguf", path.name)
    if match is None:
        return [path]
    count = int(match[2])
    return [path.with_name(f"{match[1]}-{n:05}-of-{match[2]}.gguf") for n in range(1, count + 1)]


def _read(path: Path, lists: bool, size: int, _mtime_ns: int) -> Header:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
            header, end = _Reader(raw, lists).header()
    except (
        struct.error,
        ValueError,
        IndexError,
        KeyError,
        OverflowError,
        RecursionError,
        OSError,
    ) as error:
        raise ModelBroken(f"{path} is no whole GGUF file: {error}", _REMEDY) from error
    missing = _end(header, end) - size
    if missing > 0:
        raise ModelBroken(f"{path} is cut short: {missing} bytes are missing", _REMEDY)
    return header


_read_once = functools.lru_cache(maxsize=256)(_read)


def _end(header: Header, end: int) -> int:
    """Where the last tensor ends, if the header ends at `end`."""
    align = int(header.metadata.get("general.alignment") or ALIGNMENT)
    start = -(-end // align) * align
    return max((start + t.offset + t.bytes for t in header.tensors if t.type in _TYPES), default=0)


_REMEDY = "Fetch the file again: it is corrupt or its download was not finished."


class _Reader:
    def __init__(self, raw: mmap.mmap, lists: bool) -> None:
        self.raw, self.lists, self.at = raw, lists, 0

    def header(self) -> tuple[Header, int]:
        if self.raw[:4] != MAGIC:
            raise ValueError("it does not begin with GGUF")
        self.at = 4
        version, tensors, keys = self.scalar("<I"), self.scalar("<Q"), self.scalar("<Q")
        if version not in (2, 3):
            raise ValueError(f"version {version} is not known here")
        metadata = {self.string(): self.value(self.scalar("<I")) for _ in range(keys)}
        found = tuple(self.tensor() for _ in range(tensors))
        return Header(metadata, found), self.at

    def tensor(self) -> Tensor:
        name = self.string()
        shape = tuple(self.scalar("<Q") for _ in range(self.scalar("<I")))
        return Tensor(name, shape, self.scalar("<I"), self.scalar("<Q"))

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array()
        if kind not in _SCALARS:
            raise ValueError(f"value type {kind} is not known")
        return self.scalar(_SCALARS[kind])

    def array(self) -> list[Any] | None:
        kind, count = self.scalar("<I"), self.scalar("<Q")
        if self.lists or count <= LONG:
            return self.values(kind, count)
        if kind == _STRING:
            self.skip_strings(count)
        else:
            self.skip(count * struct.calcsize(_SCALARS[kind]))
        return None

    def values(self, kind: int, count: int) -> list[Any]:
        if kind in _SCALARS and kind != 6:
            form = struct.Struct(f"<{count}{_SCALARS[kind][1]}")
            self.skip(form.size)
            return list(form.unpack_from(self.raw, self.at - form.size))
        return [self.value(kind) for _ in range(count)]

    def skip_strings(self, count: int) -> None:
        """Past a vocabulary or its merges: the bulk of a header, so nothing is looked up twice."""
        unpack, raw, at = struct.Struct("<Q").unpack_from, self.raw, self.at
        for _ in range(count):
            at += 8 + unpack(raw, at)[0]
        self.at = at
        self.skip(0)

    def string(self) -> str:
        length = self.scalar("<Q")
        start = self.at
        self.skip(length)
        return self.raw[start : self.at].decode()

    def skip(self, size: int) -> None:
        if self.at + size > len(self.raw):
            raise ValueError("it ends within its header")
        self.at += size

    def scalar(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self.raw, self.at)
        self.at += struct.calcsize(form)
        return _shortest(value) if form == "<f" else value


def _shortest(value: float) -> float:
    """The double that reads as a 32-bit float does: 1e-06, not 9.999999974752427e-07."""
    for digits in range(6, 10):
        rounded = float(f"{value:.{digits}g}")
        if struct.pack("<f", rounded) == struct.pack("<f", value):
            return rounded
    return value
