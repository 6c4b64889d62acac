"""From a name to a model on this disk, and back to how Ollama shows it."""

import difflib
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from vllama import weights
from vllama.errors import ModelBroken, ModelNotFound, UsageError
from vllama.model import Model
from vllama.settings import Settings
from vllama.store import aliases, hub_cache, manifest, materialise
from vllama.store.layout import RESERVED
from vllama.store.reference import InvalidName, Name

TAG = ":latest"
_log = logging.getLogger(__name__)


def resolve(reference: str, settings: Settings) -> Model:
    """The model that `reference` names.

    In this order: a local folder or GGUF file, a name in our store or in Ollama's, a folder
    or file below the home's `models`, a hub repository in the hub's own cache, and what the
    alias table says of the name. A path gives a model whose name is the absolute path, so
    that its profiles are found from every folder.

    Raises:
        ModelNotFound: with names like it.
        ModelBroken: naming the broken file.
    """
    if not reference.strip() or "\0" in reference:
        raise UsageError(f"{reference!r} is no model name", "Give a folder, a GGUF file or a name.")
    path = Path(reference).expanduser()
    if _is_model(path):
        return weights.read(path.resolve(), str(path.resolve()))
    for find in (_in_store, _in_home, _in_hub_cache, _by_alias):
        found = find(reference, settings)
        if found is not None:
            return found
    if _exists(path) and ("/" in reference or os.sep in reference or path.is_file()):
        return weights.read(path.resolve(), str(path.resolve()))
    raise _not_found(reference, settings)


def known(settings: Settings) -> list[Model]:
    """Every model that a bare name reaches; broken ones are left out."""
    models = []
    for name in bare_names(settings):
        try:
            models.append(resolve(name, settings))
        except (ModelBroken, ModelNotFound):
            continue
    return models


def shown(name: str) -> str:
    """A name as Ollama shows it: always with a tag; of a path, the last part without ending."""
    plain = Path(name).name.removesuffix(".gguf") if Path(name).is_absolute() else name
    return plain if ":" in plain.rpartition("/")[2] else plain + TAG


def same(name: str, other: str) -> bool:
    """Whether two names mean the same model to Ollama: case and `:latest` do not count."""
    return key(name) == key(other)


def key(name: str) -> str:
    """Equal for names that mean the same model."""
    try:
        return Name.parse(shown(name)).key
    except InvalidName:
        return shown(name).lower()


def bare_names(settings: Settings) -> list[str]:
    """The names of all models here: of the stores, of the home, of the hub's cache."""
    stored = [entry.name.shown for entry in manifest.entries(settings)]
    return [*stored, *homemade(settings), *hub_cache.cached(settings)]


def stored(reference: str, settings: Settings) -> manifest.Entry | None:
    """The manifest behind a name, if it has one."""
    try:
        return manifest.find(Name.parse(reference), settings)
    except InvalidName:
        return None


def _is_model(path: Path) -> bool:
    """Whether a path leads to a model: a folder that merely bears a model's name does not."""
    try:
        if path.is_file():
            return path.suffix == ".gguf" or path.is_absolute()
        return (path / "config.json").exists() or any(path.glob("*.gguf"))
    except OSError:  # too long for a path
        return False


def _in_store(reference: str, settings: Settings) -> Model | None:
    entry = stored(reference, settings)
    if entry is None:
        return None
    return materialise.model(entry, settings, resolve)


def _in_home(reference: str, settings: Settings) -> Model | None:
    folder = settings.home / "models"
    plain = reference.removesuffix(TAG)
    if plain.partition("/")[0] in RESERVED:
        return None
    path = folder / plain
    try:
        inside = path.resolve().is_relative_to(folder.resolve()) and path.resolve() != folder
        return weights.read(path.resolve(), plain) if inside and path.exists() else None
    except OSError:  # too long for a path
        return None


def _in_hub_cache(reference: str, settings: Settings) -> Model | None:
    repository = hub_cache.parse(reference)
    if repository is None:
        return None
    snapshot = hub_cache.snapshot(repository, settings)
    if snapshot is None:
        return None
    name = reference.removesuffix(TAG)
    if (snapshot / "config.json").exists() and not repository.quant:
        return replace(weights.read(snapshot, name), revision=snapshot.name)
    files = [str(p.relative_to(snapshot)) for p in snapshot.rglob("*.gguf")]
    chosen = hub_cache.choose_gguf(files, repository.quant)
    if chosen is None:
        if repository.quant:
            return None
        raise ModelBroken(
            f"{repository.id} is in the hub's cache without config.json or a .gguf file",
            f"Its download was not finished: vllama pull {repository.id}",
        )
    return replace(weights.read(snapshot / chosen, name), revision=snapshot.name)


def _by_alias(reference: str, settings: Settings) -> Model | None:
    original = aliases.table(settings).get(shown(reference).lower())
    if original is None:
        return None
    found = _in_hub_cache(original, settings)
    if found is None:
        return None
    _log.info("%s is %s from the hub's cache", reference, original)
    return replace(found, name=reference.removesuffix(TAG))


def homemade(settings: Settings) -> Iterator[str]:
    """The folders and files below the home's `models`."""
    for path in sorted((settings.home / "models").glob("*")):
        if path.name not in RESERVED and not path.name.startswith("."):
            yield path.name


def _not_found(reference: str, settings: Settings) -> ModelNotFound:
    names = bare_names(settings)
    parent = Path(reference).parent
    if _exists(parent) and parent.is_dir():
        prefix = "" if str(parent) == "." else f"{parent}/"
        names += [prefix + p.name for p in parent.iterdir() if p.is_dir() or p.suffix == ".gguf"]
    names += aliases.table(settings)
    by_key = {n.lower(): n for n in (*names, *(n.removesuffix(TAG) for n in names))}
    near = [by_key[k] for k in difflib.get_close_matches(reference.lower(), list(by_key), n=3)]
    near = list({shown(n): n for n in near}.values())
    return ModelNotFound(reference, near, _remedy(reference))


def _remedy(reference: str) -> str:
    if re.match(r"[./~]", reference) or ".." in reference:
        return _REMEDY
    try:
        return f"Fetch it: vllama pull {Name.parse(reference).shown.removesuffix(TAG)}"
    except InvalidName:
        return _REMEDY


_REMEDY = "Give a folder, a GGUF file, or the name of a model that is here."


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # too long for a path
        return False
