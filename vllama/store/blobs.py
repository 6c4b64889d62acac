"""Blobs: files by the digest of what is in them, written whole or not at all."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from vllama.errors import StorageError, UsageError
from vllama.settings import Settings
from vllama.store.layout import find_blob, hex_of, ours
from vllama.store.manifest import Layer, entries

_CHUNK = 1 << 20
_UPLOAD = ".upload-"
_STALE_S = 86_400.0
# Room that a download or an upload leaves for everything else on the disk.
SPARE_BYTES = 64 << 20


class DigestMismatch(UsageError):
    """The bytes are not those that their digest promised."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f'digest mismatch, expected "{expected}", got "{got}"')


class Blobs:
    """Our store's blobs; those of an Ollama store beside it count as here."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.root = ours(settings)

    def has(self, digest: str) -> bool:
        """Whether the blob is here.

        Raises:
            InvalidDigest: it is no digest.
        """
        return find_blob(f"sha256:{hex_of(digest)}", self.settings) is not None

    async def put(self, digest: str, data: AsyncIterator[bytes]) -> bool:
        """Keep the bytes; False when they are here already. A broken upload leaves nothing.

        Raises:
            InvalidDigest: it is no digest.
            DigestMismatch: the bytes have another one.
            StorageError: the disk is full.
        """
        wanted = f"sha256:{hex_of(digest)}"
        if self.has(wanted):
            return False
        with self.beside() as upload:
            async for piece in data:
                upload.write(piece)
            upload.keep(wanted)
        return True

    def add(self, data: bytes) -> str:
        """Keep these bytes; their digest."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if not self.has(digest):
            with self.beside() as upload:
                upload.write(data)
                upload.keep(digest)
        return digest

    def add_file(self, path: Path) -> str:
        """Keep a file's bytes, linked where the disk allows it; its digest."""
        digest = f"sha256:{digest_of(path)}"
        if not self.has(digest):
            with self.beside() as upload:
                upload.take(path)
                upload.keep(digest)
        return digest

    def beside(self) -> "Upload":
        """A file under way, next to the blobs."""
        return Upload(self.root.path / "blobs")

    def prune(self, digests: Iterable[str]) -> list[str]:
        """Remove those of these blobs that no model needs; which they were."""
        kept = {hex_of(x.digest) for e in entries(self.settings) for x in e.manifest.blobs}
        gone = []
        for digest in dict.fromkeys(digests):
            path = self.root.blob(digest)
            if hex_of(digest) not in kept and path.is_file():
                path.unlink(missing_ok=True)
                gone.append(digest)
        return gone

    def untouched(self, now_s: float) -> list[str]:
        """The digests of blobs that are a day old or older."""
        found = (self.root.path / "blobs").glob("sha256-*")
        return [p.name for p in found if p.is_file() and now_s - p.stat().st_mtime > _STALE_S]

    def sweep(self, now_s: float) -> None:
        """Remove uploads that a killed process left a day ago or earlier."""
        for path in (self.root.path / "blobs").glob(f"{_UPLOAD}*"):
            try:
                if now_s - path.stat().st_mtime > _STALE_S:
                    path.unlink()
            except OSError:
                continue  # somebody else was faster

    def layer(self, media: str, data: bytes) -> Layer:
        """Keep these bytes as a layer."""
        return Layer(media, self.add(data), len(data))


class Upload:
    """One blob under way: hidden until it is whole, gone if it never is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.digest = hashlib.sha256()

    def __enter__(self) -> "Upload":
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=_UPLOAD)
        except OSError as error:
            raise full(self.folder, error) from error
        self.file, self.path = os.fdopen(handle, "wb"), Path(name)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.file.close()
        except OSError:
            pass  # the disk is full: what could not be written is dropped anyway
        self.path.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """Append."""
        try:
            self.file.write(data)
        except OSError as error:
            raise full(self.folder, error) from error
        self.digest.update(data)

    def take(self, path: Path) -> None:
        """The bytes of a file; its digest is known to be right."""
        try:
            with path.open("rb") as source:
                while piece := source.read(_CHUNK):
                    self.write(piece)
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}", "") from error

    def keep_written(self) -> str:
        """Somebody else has written the file: give it the name of what is in it; its digest."""
        with self.path.open("rb") as file:
            self.digest = hashlib.file_digest(file, hashlib.sha256)
        digest = f"sha256:{self.digest.hexdigest()}"
        self.file = self.path.open("ab")
        self.keep(digest)
        return digest

    def keep(self, digest: str) -> None:
        """It is whole: give it its name."""
        got = f"sha256:{self.digest.hexdigest()}"
        if got != digest:
            raise DigestMismatch(digest, got)
        try:
            self.file.flush()
            os.fsync(self.file.fileno())
            self.path.chmod(0o644)
            self.path.replace(self.folder / f"sha256-{hex_of(digest)}")
        except OSError as error:
            raise full(self.folder, error) from error


def digest_of(path: Path) -> str:
    """64 hex digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def full(folder: Path, error: OSError) -> StorageError:
    """What is said when a blob cannot be written."""
    return StorageError(
        f"cannot write to {folder}: {error.strerror or error}",
        "Free some space, or choose another home with VLLAMA_HOME.",
    )


def check_space(folder: Path, needed: int) -> None:
    """Before the first byte is fetched.

    Raises:
        StorageError: the disk has less room than `needed` bytes and some spare.
    """
    there = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(there).free
    if free < needed + SPARE_BYTES:
        raise StorageError(
            f"not enough space in {there}: {gigabytes(needed)} are needed, {gigabytes(free)} free",
            "Free some space, or choose another home with VLLAMA_HOME.",
        )


def gigabytes(size: int) -> str:
    """A size for people."""
    return f"{size / 1e9:.1f} GB"
