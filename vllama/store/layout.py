"""Where the stores keep what: manifests by name, blobs by digest, in Ollama's own layout.

Ours is `<home>/models`, an Ollama store beside it is read in place and never written.
"""

import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from vllama.errors import UsageError
from vllama.settings import Settings
from vllama.store.reference import Name

_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
# What is a device to Windows in every folder, whatever follows after a dot.
_DEVICE = re.compile(r"(?i)con|prn|aux|nul|com\d|lpt\d")
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
            name = name_of(path)
            if name.is_valid and path.is_file():
                yield name, path


def name_of(manifest: Path) -> Name:
    """The name whose manifest lies there."""
    host, namespace, model, tag = (unquote(part) for part in manifest.parts[-4:])
    return Name(host, namespace, model, tag)


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


def _spelled(part: str) -> str:
    """A part of a name as the name of a file; Windows does not take all of them as they are.

    No name has a percent sign in it, so what is quoted can be told from what is not.
    """
    if platform.system() != "Windows":
        return part
    quoted = part.replace(":", "%3A")
    if quoted.endswith("."):
        quoted = f"{quoted[:-1]}%2E"
    if _DEVICE.fullmatch(quoted.partition(".")[0]):
        quoted = f"%{ord(quoted[0]):X}{quoted[1:]}"
    return quoted


def _as_written(folder: Path, part: str) -> Path:
    exact = folder / _spelled(part)
    if exact.exists() or not folder.is_dir():
        return exact
    same = (p for p in folder.iterdir() if unquote(p.name).lower() == part.lower())
    return next(same, exact)
