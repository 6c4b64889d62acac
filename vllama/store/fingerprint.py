"""A digest for a model that has no manifest: the same for the same files, wherever they lie."""

import functools
import hashlib
from pathlib import Path

from vllama.model import Model

_SMALL = 1 << 20
_ENDS = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")


def files(model: Model) -> list[Path]:
    """What makes up the model: of a folder the weights and what describes them."""
    if model.path.is_file():
        return [model.path]
    if model.safetensors is None:
        return [model.gguf] if model.gguf else []
    return sorted({p for end in _ENDS for p in model.path.glob(end)})


def of(model: Model) -> str:
    """64 hex digits over names, sizes and contents; of a large file only its two ends."""
    whole = hashlib.sha256()
    for path in files(model):
        status = path.stat()
        name = "" if path == model.path else path.name
        whole.update(f"{name}\0{_of_file(path, status.st_size, status.st_mtime_ns)}\n".encode())
    return whole.hexdigest()


@functools.lru_cache(maxsize=4096)
def _of_file(path: Path, size: int, _mtime_ns: int) -> str:
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(_SMALL))
        if size > _SMALL:
            file.seek(max(_SMALL, size - _SMALL))
            digest.update(file.read())
    return digest.hexdigest()
