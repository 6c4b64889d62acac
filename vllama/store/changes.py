"""Copying a model to another name, and removing one."""

import json
import shutil
from pathlib import Path

from vllama.errors import ModelNotFound
from vllama.settings import Settings
from vllama.store import commit, hub_cache, names
from vllama.store.blobs import Blobs
from vllama.store.errors import Refused
from vllama.store.layout import ours
from vllama.store.manifest import SOURCE, Layer, Manifest, find
from vllama.store.reference import InvalidName, Name


def copy(source: str, destination: str, settings: Settings) -> None:
    """Give a model a second name; nothing of its weights is copied.

    Raises:
        Refused: in Ollama's words; `status` 400 for a bad name, 404 for an unknown model.
    """
    first, second = _parsed("source", source), _parsed("destination", destination)
    entry = find(first, settings)
    if entry is not None:
        if first.key != second.key or not entry.root.is_ours:
            commit.save(second, entry.raw, settings)
        return
    try:
        names.resolve(source, settings)
    except ModelNotFound:
        raise Refused(f'model "{source}" not found', 404) from None
    layers = (source_layer(source, settings),)
    config = commit.config({}, layers, settings)
    commit.save(second, Manifest(config, layers).raw(), settings)


def delete(name: str, settings: Settings) -> None:
    """Remove a model, and the blobs that no other model needs.

    A repository in the hub's cache is removed from it; what lies elsewhere is not touched.

    Raises:
        Refused: in Ollama's words; `status` 400 for a bad name, 404 for an unknown model.
    """
    try:
        parsed = Name.parse(name)
    except InvalidName:
        raise Refused(f"name {json.dumps(name)} is invalid") from None
    entry = find(parsed, settings)
    if entry is not None and entry.root.is_ours:
        commit.remove(entry.name, settings)
        shutil.rmtree(ours(settings).path / "folders" / entry.digest, ignore_errors=True)
    elif entry is not None:
        raise Refused(
            f"model '{name}' belongs to Ollama's store", 403, f"Remove it there: ollama rm {name}"
        )
    elif not (_delete_homemade(name, settings) or _delete_from_hub_cache(name, settings)):
        raise Refused(f"model '{name}' not found", 404)


def source_layer(reference: str, settings: Settings) -> Layer:
    """A layer that names a base which stays where it is."""
    raw = json.dumps({"reference": reference}).encode()
    layer = Blobs(settings).layer(SOURCE, raw)
    return Layer(layer.media, layer.digest, layer.size, source=names.shown(reference))


def _parsed(role: str, text: str) -> Name:
    try:
        return Name.parse(text)
    except InvalidName:
        raise Refused(f"{role} {json.dumps(text)} is invalid") from None


def _delete_homemade(name: str, settings: Settings) -> bool:
    path = settings.home / "models" / name.removesuffix(names.TAG)
    if path.parent != settings.home / "models" or path.name not in names.homemade(settings):
        return False
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    return True


def _delete_from_hub_cache(name: str, settings: Settings) -> bool:
    repository = hub_cache.parse(name)
    if repository is None:
        return False
    folder = hub_cache.folder(repository, settings)
    if not folder.is_dir():
        return False
    if repository.quant:
        return _delete_quant(repository, settings)
    shutil.rmtree(folder)
    return True


def _delete_quant(repository: hub_cache.Repository, settings: Settings) -> bool:
    """One GGUF file of a repository: its link and what it links to."""
    snapshot = hub_cache.snapshot(repository, settings)
    found: list[Path] = [
        p
        for p in (snapshot.rglob("*.gguf") if snapshot is not None else ())
        if hub_cache.has_quant(p.name, repository.quant)
    ]
    for path in found:
        target = path.resolve()
        path.unlink()
        target.unlink(missing_ok=True)
    return bool(found)
