"""Giving blobs to a registry: only those it lacks, in pieces."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, TypeAlias
from urllib.parse import urlencode, urljoin

import httpx

from vllama.settings import Settings
from vllama.store.errors import TransferFailed
from vllama.store.manifest import Entry, Layer, blob
from vllama.store.registry import Registry

Status: TypeAlias = dict[str, Any]


async def push_blobs(
    entry: Entry, registry: Registry, settings: Settings
) -> AsyncGenerator[Status, None]:
    """Every blob of a model that the registry does not have, with Ollama's statuses."""
    for layer in entry.manifest.blobs:
        told = {
            "status": f"pushing {layer.digest.removeprefix('sha256:')[:12]}",
            "digest": layer.digest,
            "total": layer.size,
        }
        path = f"/blobs/{layer.digest}"
        there = await registry.request("HEAD", path, passes=frozenset({404}))
        if there.status_code != 404:
            yield {**told, "completed": layer.size}
            continue
        yield told
        async with aclosing(_push(layer, registry, settings)) as counts:
            async for completed in counts:
                yield {**told, "completed": completed}


async def _push(layer: Layer, registry: Registry, settings: Settings) -> AsyncGenerator[int, None]:
    opened = await registry.request("POST", "/blobs/uploads/")
    place = _place(opened, registry)
    done, size = 0, registry.limits.part_bytes
    with blob(layer, settings).open("rb") as file:
        while piece := file.read(size):
            headers = {
                "Content-Type": "application/octet-stream",
                "Content-Range": f"{done}-{done + len(piece) - 1}",
            }
            reply = await registry.request("PATCH", place, headers=headers, content=piece)
            place = _place(reply, registry)
            done += len(piece)
            yield done
    joint = "&" if "?" in place else "?"
    await registry.request("PUT", f"{place}{joint}{urlencode({'digest': layer.digest})}")


def _place(reply: httpx.Response, registry: Registry) -> str:
    headers = reply.headers
    location: str | None = headers.get("docker-upload-location") or headers.get("location")
    if not location:
        raise TransferFailed("the registry did not say where to put the blob")
    return urljoin(registry.base, location)
