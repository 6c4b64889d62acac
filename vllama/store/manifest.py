"""A manifest: which blobs make up a model. Ollama's documents, and what we add to them."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from vllama.disk import write_whole
from vllama.errors import ModelBroken
from vllama.settings import Settings
from vllama.store.layout import InvalidDigest, Root, find_blob, hex_of, name_of, ours, roots
from vllama.store.reference import Name

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
_OLLAMA = "application/vnd.ollama.image."
# A base model that stays where it is, in the hub's cache or in a folder of the user's.
SOURCE = "application/vnd.vllama.image.source+json"
# One file of a Hugging Face folder, under the layer's name.
FILE = "application/vnd.vllama.image.file"


def media_type(kind: str) -> str:
    """Ollama's media type of a `model`, `template`, `params`, … layer."""
    return _OLLAMA + kind


@dataclass(frozen=True, slots=True)
class Layer:
    """One blob and what it is to the model."""

    media: str
    digest: str
    size: int
    name: str = ""
    source: str = ""

    @property
    def kind(self) -> str:
        """The last word of Ollama's media type, such as `model`; else the whole type."""
        return self.media.removeprefix(_OLLAMA)

    def to_json(self) -> dict[str, Any]:
        """As manifests hold it."""
        document = {"mediaType": self.media, "digest": self.digest, "size": self.size}
        extra = {"from": self.source, "name": self.name}
        return document | {k: v for k, v in extra.items() if v}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Layer":
        """Read what `to_json` wrote; the digest is checked, for it becomes a file's name."""
        hex_of(document["digest"])
        size = int(document["size"])
        if size < 0:
            raise ValueError("a layer's size is negative")
        name, source = document.get("name") or "", document.get("from") or ""
        return cls(str(document["mediaType"]), document["digest"], size, str(name), str(source))


@dataclass(frozen=True, slots=True)
class Manifest:
    """The layers of one model, and its configuration blob."""

    config: Layer
    layers: tuple[Layer, ...]

    @property
    def size_bytes(self) -> int:
        return self.config.size + sum(layer.size for layer in self.layers)

    @property
    def blobs(self) -> tuple[Layer, ...]:
        """All that must be here for the model to work, each digest once."""
        return tuple({x.digest: x for x in (*self.layers, self.config)}.values())

    def first(self, kind: str) -> Layer | None:
        """The first layer of a kind."""
        return next((layer for layer in self.layers if layer.kind == kind), None)

    def raw(self) -> bytes:
        """The document's bytes, whose SHA-256 is the model's digest."""
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": self.config.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
        }
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def parse(cls, raw: bytes, where: str) -> "Manifest":
        """Read a manifest.

        Raises:
            ModelBroken: saying `where` it came from.
        """
        try:
            document = json.loads(raw)
            layers = tuple(Layer.from_json(x) for x in document.get("layers") or ())
            return cls(Layer.from_json(document["config"]), layers)
        except (ValueError, TypeError, KeyError, AttributeError, InvalidDigest) as error:
            raise ModelBroken(
                f"{where} is no manifest: {error}", "Pull the model again."
            ) from error


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a store, with its manifest. `digest` is 64 hex digits."""

    name: Name
    manifest: Manifest
    digest: str
    root: Root
    modified_at: datetime
    raw: bytes = b""

    def text(self, kind: str, settings: Settings) -> list[str]:
        """The contents of the layers of a kind."""
        paths = [blob(x, settings) for x in self.manifest.layers if x.kind == kind]
        return [p.read_text(errors="replace") for p in paths]

    def config(self, settings: Settings) -> dict[str, Any]:
        """The configuration blob; empty where it is no object."""
        try:
            document = json.loads(blob(self.manifest.config, settings).read_bytes())
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}


def find(name: Name, settings: Settings) -> Entry | None:
    """The manifest of a name, ours before Ollama's."""
    for root in roots(settings):
        path = root.manifest(name)
        if path.is_file():
            return _entry(name_of(path), path, root)
    return None


def entries(settings: Settings) -> Iterator[Entry]:
    """Every model in the stores, each name once; broken manifests are left out."""
    seen = set()
    for root in roots(settings):
        for name, path in root.names():
            if name.key not in seen:
                seen.add(name.key)
                try:
                    yield _entry(name, path, root)
                except ModelBroken:
                    continue


def save(name: Name, raw: bytes, settings: Settings) -> None:
    """Write a manifest whole; from here on the model exists. An existing case is kept."""
    write_whole(ours(settings).manifest(name), raw)


def blob(layer: Layer, settings: Settings) -> Path:
    """The file of a layer.

    Raises:
        ModelBroken: it is gone, or has another size than its manifest says.
    """
    path = find_blob(layer.digest, settings)
    if path is None:
        raise ModelBroken(f"the blob {layer.digest} is missing", "Pull or create the model again.")
    size = path.stat().st_size
    if size != layer.size:
        raise ModelBroken(
            f"{path} has {size} bytes instead of {layer.size}", "Pull or create the model again."
        )
    return path


def _entry(name: Name, path: Path, root: Root) -> Entry:
    if not path.resolve().is_relative_to(root.path.resolve()):
        raise ModelBroken(f"{path} leads out of the store", "Remove the link.")
    try:
        raw = path.read_bytes()
        modified = datetime.fromtimestamp(path.stat().st_mtime).astimezone()
    except OSError as error:
        raise ModelBroken(f"{path} cannot be read: {error.strerror}", "") from error
    manifest = Manifest.parse(raw, str(path))
    return Entry(name, manifest, hashlib.sha256(raw).hexdigest(), root, modified, raw)
