"""Building stores by hand, in Ollama's layout, for tests to read."""

import hashlib
import json
from pathlib import Path
from typing import Any

from vllama.store.manifest import media_type


def put_blob(root: Path, data: bytes) -> tuple[str, int]:
    """Write a blob; its digest and size."""
    digest = hashlib.sha256(data).hexdigest()
    path = root / "blobs" / f"sha256-{digest}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return f"sha256:{digest}", len(data)


def put_model(
    root: Path,
    name: str,
    layers: list[tuple[str, bytes]],
    config: dict[str, Any] | None = None,
    parent: str = "",
) -> str:
    """Write a model as Ollama does; `name` is `model:tag`. Its digest."""
    listed = []
    for kind, data in layers:
        digest, size = put_blob(root, data)
        layer = {"mediaType": media_type(kind), "digest": digest, "size": size}
        listed.append(layer | ({"from": parent} if parent and kind == "model" else {}))
    digest, size = put_blob(root, json.dumps(config or {"model_format": "gguf"}).encode())
    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "digest": digest,
            "size": size,
        },
        "layers": listed,
    }
    model, _, tag = name.partition(":")
    path = root / "manifests" / "registry.ollama.ai" / "library" / model / (tag or "latest")
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = json.dumps(document).encode()
    path.write_bytes(raw)
    return hashlib.sha256(raw).hexdigest()


def put_in_hub_cache(cache: Path, repository: str, source: Path, commit: str = "a" * 40) -> Path:
    """A repository in the hub's cache whose snapshot links to `source`'s files."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True, exist_ok=True)
    for path in source.rglob("*"):
        target = snapshot / path.relative_to(source)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        elif path.suffix != ".gguf":
            target.symlink_to(path)
    return snapshot
