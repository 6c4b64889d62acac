"""Where the stores keep what: manifests by name, blobs by digest, in Ollama's own layout.

Ours is `<home>/models`, an Ollama store beside it is read in place and never written.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vllama.errors import UsageError
from vllama.settings import Settings
from vllama.store.reference import Name

_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
RESERVED = frozenset({"manifests", "blobs", "folders"})


class InvalidDigest(UsageError):
    """The text is no `sha256:` and 64 hex digits."""


@dataclass(frozen=True, slots=True)
class Root:
    """One store's folder."""

    path: Path
    is_ours: bool

    @property
    def manifests(self) -> Path:
        return self.path / "manifests"

    def blob(self, digest: str) -> Path:
        """Where the blob of this digest lies, whether or not it is there."""
        return self.path / "blobs" / f"sha256-{hex_of(digest)}"

    def manifest(self, name: Name) -> Path:
        """Where this name's manifest lies, whether or not it is there; an existing case wins."""
        path = self.manifests
        for part in (name.host, name.namespace, name.model, name.tag):
            path = _as_written(path, part)
        return path

    def names(self) -> Iterator[tuple[Name, Path]]:
        """Every name that has a manifest here, and the manifest."""
        for path in sorted(self.manifests.glob("*/*/*/*")):
            host, namespace, model, tag = path.parts[-4:]
            name = Name(host, namespace, model, tag)
            if name.is_valid and path.is_file():
                yield name, path


def roots(settings: Settings) -> tuple[Root, ...]:
    """Ours first, then Ollama's."""
    ours = Root(settings.home / "models", is_ours=True)
    theirs = Root(settings.ollama_models, is_ours=False)
    return (ours,) if theirs.path == ours.path else (ours, theirs)


def ours(settings: Settings) -> Root:
    """The only store that is written to."""
    return roots(settings)[0]


def find_blob(digest: str, settings: Settings) -> Path | None:
    """The blob, in whichever store has it."""
    return next((p for r in roots(settings) if (p := r.blob(digest)).is_file()), None)


def hex_of(digest: str) -> str:
    """The 64 hex digits, in lower case.

    Raises:
        InvalidDigest: it is no digest; nothing else ever becomes a file's name.
    """
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise InvalidDigest("invalid digest format")
    return match[1].lower()


def _as_written(folder: Path, part: str) -> Path:
    exact = folder / part
    if exact.exists() or not folder.is_dir():
        return exact
    same = (p for p in folder.iterdir() if p.name.lower() == part.lower())
    return next(same, exact)
