"""From a manifest to files that an engine can open."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from vllama import weights
from vllama.errors import ModelBroken, StorageError
from vllama.model import Model
from vllama.settings import Settings
from vllama.store.layout import ours
from vllama.store.manifest import FILE, SOURCE, Entry, Layer, blob

Resolve = Callable[[str, Settings], Model]


def model(entry: Entry, settings: Settings, resolve: Resolve) -> Model:
    """The model of a manifest: its GGUF blob, its folder of files, or its base, in place."""
    name = entry.name.shown.removesuffix(":latest")
    source = entry.manifest.first(SOURCE)
    if source is not None:
        return replace(resolve(reference(source, settings), settings), name=name)
    gguf = entry.manifest.first("model")
    if gguf is not None:
        return weights.read(blob(gguf, settings), name)
    layers = [layer for layer in entry.manifest.layers if layer.media == FILE]
    if not layers:
        raise ModelBroken(f"{name} has no weights in its manifest", f"Pull it again: {name}")
    return weights.read(folder(entry.digest, layers, settings), name)


def folder(digest: str, layers: Iterable[Layer], settings: Settings) -> Path:
    """A folder of these files, linked to their blobs; made once for each digest, as a whole."""
    made = ours(settings).path / "folders" / digest
    if made.is_dir():
        return made
    try:
        made.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=made.parent, prefix="."))
        try:
            for layer in layers:
                target = beside / safe_name(layer.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(blob(layer, settings), target)
            beside.chmod(0o755)
            beside.rename(made)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        if not made.is_dir():
            raise StorageError(f"cannot write {made}: {error.strerror}", "") from error
    return made


def adapter(entry: Entry, settings: Settings) -> Path | None:
    """The LoRA adapter: a GGUF file, or a folder in peft's layout."""
    whole = entry.manifest.first("adapter")
    if whole is None:
        return None
    if not whole.name:
        return blob(whole, settings)
    layers = [layer for layer in entry.manifest.layers if layer.kind == "adapter"]
    return folder(f"adapter-{entry.digest}", layers, settings)


def safe_name(name: str) -> str:
    """A file's name within a folder.

    Raises:
        ModelBroken: it would lead out of the folder.
    """
    path = PurePosixPath(name)
    # A colon is a drive or a hidden stream on Windows, and no model's files have one.
    strange = "\0" in name or "\\" in name or ":" in name
    bad = not name or strange or path.is_absolute() or ".." in path.parts
    if bad:
        raise ModelBroken(f"a file named {name!r} would leave its folder", "Do not use this model.")
    return str(path)


def _link(blob_path: Path, target: Path) -> None:
    try:
        os.link(blob_path, target)
    except OSError:  # another file system, or one without hard links
        target.symlink_to(blob_path.resolve())


def reference(layer: Layer, settings: Settings) -> str:
    """The name of the base that a derived model leaves where it is."""
    path = blob(layer, settings)
    try:
        return str(json.loads(path.read_text("utf-8"))["reference"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelBroken(f"{path} does not name a model: {error}", "Create it again.") from error
