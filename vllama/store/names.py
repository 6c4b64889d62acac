"""From a name to a model on this disk, and back to how Ollama shows it."""

import difflib
from pathlib import Path

from vllama import weights
from vllama.errors import ModelBroken, ModelNotFound, UsageError
from vllama.model import Model
from vllama.settings import Settings

TAG = ":latest"


def resolve(reference: str, settings: Settings) -> Model:
    """The model that `reference` names.

    It is a local folder or GGUF file, a name below the home's `models` folder, or a hub
    repository in the hub's own cache. A path gives a model whose name is the absolute path,
    so that its profiles are found from every folder.

    Raises:
        ModelNotFound: with names like it.
        ModelBroken: naming the broken file.
    """
    if not reference.strip() or "\0" in reference:
        raise UsageError(f"{reference!r} is no model name", "Give a folder, a GGUF file or a name.")
    path = Path(reference).expanduser()
    if path.exists():
        return weights.read(path.resolve(), str(path.resolve()))
    plain = reference.removesuffix(TAG)
    made = settings.home / "models" / plain
    if made.resolve().is_relative_to((settings.home / "models").resolve()) and made.exists():
        return weights.read(made.resolve(), plain)
    snapshot = _snapshot(plain, settings)
    if snapshot is not None:
        return weights.read(snapshot, plain)
    raise _not_found(reference, settings)


def known(settings: Settings) -> list[Model]:
    """Every model that a bare name reaches; broken ones are left out."""
    models = []
    for name in _names(settings):
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
    return shown(name).lower() == shown(other).lower()


def _names(settings: Settings) -> list[str]:
    made = settings.home / "models"
    names = [p.name for p in sorted(made.glob("*"))] if made.exists() else []
    cached = sorted(settings.hub_cache.glob("models--*"))
    return names + [p.name.removeprefix("models--").replace("--", "/") for p in cached]


def _snapshot(name: str, settings: Settings) -> Path | None:
    """The folder in the hub's cache that `main` points to; the cache is used in place."""
    folder = settings.hub_cache / f"models--{name.replace('/', '--')}"
    try:
        revision = (folder / "refs" / "main").read_text().strip()
    except (OSError, ValueError):
        return None
    snapshot = folder / "snapshots" / revision
    return snapshot if snapshot.exists() else None


def _not_found(reference: str, settings: Settings) -> ModelNotFound:
    parent = Path(reference).parent
    names = _names(settings)
    if parent.is_dir():
        prefix = "" if str(parent) == "." else f"{parent}/"
        names += [prefix + p.name for p in parent.iterdir() if p.is_dir() or p.suffix == ".gguf"]
    near = difflib.get_close_matches(reference, names, n=3)
    return ModelNotFound(
        reference, near, "Give a folder, a GGUF file, or a repository that is in the hub's cache."
    )
