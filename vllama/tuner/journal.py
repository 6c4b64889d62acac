"""The journal: what happened to a tune's trials, one line of JSON each, as it happens."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

_LOG = logging.getLogger("vllama.journal")
_LOG.propagate = False
_LOG.addHandler(logging.NullHandler())


def note(event: str, **about: object) -> None:
    """Write it down, if anybody keeps a journal."""
    if _LOG.isEnabledFor(logging.INFO):
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        _LOG.info(json.dumps({"at": at, "event": event, **about}, default=str))


@contextmanager
def kept(path: Path) -> Iterator[None]:
    """Append to the file `path` until the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    level = _LOG.level
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.INFO)
    try:
        yield
    finally:
        _LOG.setLevel(level)
        _LOG.removeHandler(handler)
        handler.close()
