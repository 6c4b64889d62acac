"""Writing files so that a kill or a full disk leaves the old one whole."""

import os
import tempfile
from pathlib import Path

from vllama.errors import StorageError


def write_whole(path: Path, data: str | bytes) -> None:
    """Write beside `path`, flush to the disk and rename over it.

    Raises:
        StorageError: the disk is full or the folder cannot be written; `path` is as it was.
    """
    raw = data.encode() if isinstance(data, str) else data
    beside: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        Path(beside).replace(path)
        beside = None
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}",
            "Free some space or choose another home with VLLAMA_HOME.",
        ) from error
    finally:
        if beside is not None:
            Path(beside).unlink(missing_ok=True)
