"""GGUF metadata, read without the weights and without the long lists unless asked.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllama.errors import ModelBroken

MAGIC = b"GGUF"
LONG = 16
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q",
            11: "<q", 12: "<d"}  # fmt: skip
_STRING, _ARRAY = 8, 9
# (elements, bytes) of a block, by tensor type: f32, f16, q4_0, q4_1, q5_0, q5_1, q8_0, K-quants.
_BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
           10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210),
           15: (256, 292), 24: (1, 1), 25: (1, 2), 26: (1, 4), 30: (1, 2)}  # fmt: skip
FILE_TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1",
              10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M",
              16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 32: "BF16"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: its shape as GGUF orders it, innermost first."""

    name: str
    shape: tuple[int, ...]
    type: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Its size in the file; an unknown type counts as 16 bits an element."""
        elements, size = _BLOCKS.get(self.type, (1, 2))
        return self.elements // elements * size


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says of itself. A long list not asked for is None."""

    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]


def read(path: Path, *, lists: bool = False) -> Header:
    """The header of a GGUF file; with `lists`, also the vocabulary and the like.

    Raises:
        ModelBroken: not a GGUF file, or cut short.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
            header, end = _Reader(raw, lists).header()
            size = len(raw)
    except (struct.error, ValueError, IndexError, UnicodeDecodeError, OSError) as error:
        raise ModelBroken(f"{path} is no whole GGUF file: {error}", _REMEDY) from error
    weights = sum(t.bytes for t in header.tensors)
    if size < end + weights:
        raise ModelBroken(f"{path} is cut short: {end + weights - size} bytes are missing", _REMEDY)
    return header


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
        kind = self.scalar("<I")
        self.scalar("<Q")
        return Tensor(name, shape, kind)

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
            return [self.value(kind) for _ in range(count)]
        if kind == _STRING:
            for _ in range(count):
                self.skip(self.scalar("<Q"))
        else:
            self.skip(count * struct.calcsize(_SCALARS[kind]))
        return None

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
        return value
