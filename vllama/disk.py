"""Writing files so that a kill or a full disk leaves the old one whole."""

import contextlib
import os
import secrets
from pathlib import Path

from vllama.errors import StorageError


def write_whole(path: Path, data: str | bytes) -> None:
    """Write beside `path`, flush to the disk and rename over it.

    Raises:
        StorageError: the disk is full or the folder cannot be written; `path` is as it was.
    """
    raw = data.encode() if isinstance(data, str) else data
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("xb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}",
            "Free some space or choose another home with VLLAMA_HOME.",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
