"""The moment a model begins to exist, or ends: one at a time, all or nothing."""

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from vllama.errors import ModelBroken
from vllama.settings import Settings
from vllama.store import layout, manifest
from vllama.store.blobs import Blobs
from vllama.store.layout import find_blob, ours
from vllama.store.manifest import CONFIG_TYPE, Layer, Manifest
from vllama.store.reference import Name

_log = logging.getLogger(__name__)


def save(name: Name, raw: bytes, settings: Settings) -> list[str]:
    """Write a manifest whose blobs are all here; which blobs nobody needs any more and are gone.

    Raises:
        ModelBroken: a blob is missing; no manifest is written.
    """
    found = Manifest.parse(raw, f"the manifest of {name.shown}")
    with locked(settings):
        _adopt(found.blobs, settings)
        old = manifest.find(name, settings)
        manifest.save(name, raw, settings)
        Blobs(settings).sweep(time.time())
        if old is None or not old.root.is_ours or settings.keeps_blobs:
            return []
        return Blobs(settings).prune(layer.digest for layer in old.manifest.blobs)


def remove(name: Name, settings: Settings) -> list[str]:
    """Remove a manifest of ours and the blobs that only it needed."""
    with locked(settings):
        path = ours(settings).manifest(name)
        raw = path.read_bytes()
        path.unlink()
        for folder in list(path.parents)[:3]:
            if any(folder.iterdir()):
                break
            folder.rmdir()
        old = Manifest.parse(raw, str(path))
        return Blobs(settings).prune(layer.digest for layer in old.blobs)


def tidy(settings: Settings, now_s: float) -> list[str]:
    """Remove what no model needs and nobody has touched for a day; which blobs they were.

    With OLLAMA_NOPRUNE blobs stay, and where a manifest cannot be read. Younger ones may belong
    to a pull or a create under way. Never fails: a server starts all the same.
    """
    blobs = Blobs(settings)
    try:
        blobs.sweep(now_s)
        old = [] if settings.keeps_blobs else blobs.untouched(now_s)
        if not old:
            return []
        with locked(settings):
            named = {name.key for root in layout.roots(settings) for name, _ in root.names()}
            is_whole = named == {entry.name.key for entry in manifest.entries(settings)}
            gone = blobs.prune(old) if is_whole else []
    except OSError as error:
        _log.warning("unused blobs were left where they are: %s", error)
        return []
    if gone:
        _log.info("removed %d blobs that no model needs (OLLAMA_NOPRUNE=1 keeps them)", len(gone))
    return gone


@contextmanager
def locked(settings: Settings) -> Iterator[None]:
    """Only one process at a time changes which models there are."""
    folder = ours(settings).path
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        yield


def config(fields: dict[str, Any], layers: Sequence[Layer], settings: Settings) -> Layer:
    """The configuration blob over these layers, as Ollama writes it."""
    document = {
        **{k: v for k, v in fields.items() if v},
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
    }
    raw = json.dumps(document, separators=(",", ":")).encode()
    return Blobs(settings).layer(CONFIG_TYPE, raw)


def _adopt(layers: Iterable[Layer], settings: Settings) -> None:
    """Check that all blobs are here; those of an Ollama store are linked to, where that works."""
    root = ours(settings)
    for layer in layers:
        path, mine = find_blob(layer.digest, settings), root.blob(layer.digest)
        if path is None:
            raise ModelBroken(f"the blob {layer.digest} is missing", "Try it again.")
        if path != mine:
            _link(path, mine)


def _link(path: Path, mine: Path) -> None:
    mine.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, mine)
    except OSError:
        pass  # on another disk: it is used where it lies
