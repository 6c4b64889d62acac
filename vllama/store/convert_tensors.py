"""The tensors of a safetensors folder as 32-bit floats, also where MLX has quantised them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vllama.store.errors import Refused

Floats = NDArray[np.float32]
MLX_BITS = (2, 4, 8)
_WORD = 32


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor lies: its file, first and last byte, type and shape."""

    file: Path
    start: int
    end: int
    kind: str
    shape: tuple[int, ...]

    def raw(self) -> NDArray[np.uint8]:
        """Its bytes, as they lie on the disk."""
        return np.memmap(self.file, np.uint8, "r")[self.start : self.end]


def read(folder: Path, config: Mapping[str, Any]) -> Iterator[tuple[str, Floats, int, int]]:
    """Every tensor, and how many are done.

    Raises:
        Refused: a tensor that is quantised in another way than MLX's.
    """
    places = dict(_places(folder))
    mlx = config.get("quantization")
    packed = {name for name in places if f"{name.removesuffix('weight')}scales" in places}
    parts = {f"{name.removesuffix('weight')}{part}" for name in packed
             for part in ("scales", "biases")}  # fmt: skip
    wanted = [name for name in places if name not in parts]
    for done, name in enumerate(wanted, 1):
        place = places[name]
        if name in packed and isinstance(mlx, dict):
            yield name, _unpacked(name, places, mlx), done, len(wanted)
        else:
            yield name, _floats(place, name), done, len(wanted)


def _places(folder: Path) -> Iterator[tuple[str, _Place]]:
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = (8 + length + int(offset) for offset in entry["data_offsets"])
                yield name, _Place(file, begin, end, str(entry["dtype"]), tuple(entry["shape"]))


def _unpacked(name: str, places: Mapping[str, _Place], mlx: Mapping[str, Any]) -> Floats:
    """MLX's affine groups: each number is a few bits times its group's scale, plus its bias."""
    base = name.removesuffix(".weight")
    given = mlx.get(base)
    own = {**mlx, **given} if isinstance(given, dict) else mlx
    bits, size = int(own["bits"]), int(own["group_size"])
    if bits not in MLX_BITS or own.get("mode", "affine") != "affine":
        raise Refused(f"tensor {name} is quantised by MLX in a way that is not known here")
    place = places[name]
    words = place.raw().view("<u4").reshape(place.shape)
    scales, biases = (_floats(places[f"{base}.{p}"], base) for p in ("scales", "biases"))
    per_word = _WORD // bits
    shifts = np.arange(per_word, dtype=np.uint32) * np.uint32(bits)
    whole = np.empty((*place.shape[:-1], place.shape[-1] * per_word), np.float32)
    # Row by row, for the numbers take eight times the room of what they are unpacked from.
    for at in np.ndindex(*place.shape[:-1]):
        numbers = (words[at][:, None] >> shifts) & np.uint32((1 << bits) - 1)
        groups = numbers.reshape(-1, size).astype(np.float32)
        whole[at] = (groups * scales[at][:, None] + biases[at][:, None]).reshape(-1)
    return whole


def _floats(place: _Place, name: str) -> Floats:
    raw = place.raw()
    if place.kind == "BF16":
        data = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    elif place.kind in ("F16", "F32", "F64"):
        data = raw.view(f"<f{int(place.kind[1:]) // 8}").astype(np.float32)
    elif place.kind == "I64" and name.endswith("position_ids"):
        data = raw.view("<i8").astype(np.float32)
    else:
        raise Refused(f"tensor {name} is quantised already ({place.kind})")
    return data.reshape(place.shape)
