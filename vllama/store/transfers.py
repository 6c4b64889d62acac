"""Pulling and pushing: which source a name means, and Ollama's statuses on the way."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Literal, TypeAlias

from vllama.settings import Settings
from vllama.store import aliases, commit, hub_cache, manifest, names
from vllama.store.blobs import check_space
from vllama.store.download import Download
from vllama.store.errors import Refused, TransferFailed
from vllama.store.layout import find_blob, ours
from vllama.store.login import Login
from vllama.store.manifest import Layer, Manifest
from vllama.store.reference import HOST, NAMESPACE, TAG, InvalidName, Name
from vllama.store.registry import Limits, Registry
from vllama.store.upload import push_blobs

Status: TypeAlias = dict[str, Any]
Source: TypeAlias = Literal["auto", "hub", "registry"]


async def pull(
    name: str,
    settings: Settings,
    *,
    insecure: bool = False,
    source: Source = "auto",
    limits: Limits | None = None,
) -> AsyncGenerator[Status, None]:
    """Fetch a model, telling how it goes in Ollama's status objects, `success` the last.

    `owner/name` and `hf.co/…` come from the hub, all else from the registry of the name's
    host. A bare name that its registry does not know, or any with `source="hub"`, is looked
    up in the alias table, and a status says which repository was taken. Closing the iterator
    stops the transfer; what is half done is kept hidden for the next try.

    Raises:
        Refused: the name is none, or the source refuses (`TransferFailed`).
        StorageError: the disk has no room for it.
    """
    repository = _hub_repository(name, settings, source)
    if repository is not None:
        from vllama.store import hub

        if names.shown(name).lower() in aliases.table(settings):
            yield {"status": f"{name} is {repository.id} on the hub"}
        async with aclosing(hub.pull(repository, settings, limits or Limits())) as statuses:
            async for status in statuses:
                yield status
        return
    parsed = _parsed(name)
    fallback = aliases.table(settings).get(parsed.shown.lower()) if source == "auto" else None
    try:
        async with aclosing(_pull(parsed, settings, insecure, limits or Limits())) as statuses:
            async for status in statuses:
                yield status
    except TransferFailed as error:
        if error.status != 404 or fallback is None:
            raise
        async with aclosing(pull(name, settings, source="hub", limits=limits)) as statuses:
            async for status in statuses:
                yield status


async def push(
    name: str, settings: Settings, *, insecure: bool = False, limits: Limits | None = None
) -> AsyncGenerator[Status, None]:
    """Give a model to its registry, or to the hub for `hf.co/owner/name`.

    Raises:
        Refused: the name is none, or the other side refuses (`TransferFailed`).
    """
    parsed = _parsed(name)
    if parsed.is_hub:
        from vllama.store import hub

        async with aclosing(hub.push(parsed, settings)) as statuses:
            async for status in statuses:
                yield status
        return
    yield {"status": "retrieving manifest"}
    entry = manifest.find(parsed, settings)
    if entry is None:
        yield {"status": "couldn't retrieve manifest"}
        path = ours(settings).manifest(parsed)
        raise TransferFailed(f"open {path}: no such file or directory")
    target = parsed.plain_http() if insecure else parsed
    async with Registry.open(target, limits or Limits(), Login.of(settings)) as registry:
        async with aclosing(push_blobs(entry, registry, settings)) as statuses:
            async for status in statuses:
                yield status
        yield {"status": "pushing manifest"}
        await registry.request(
            "PUT",
            f"/manifests/{parsed.tag}",
            headers={"Content-Type": manifest.MANIFEST_TYPE},
            content=entry.raw,
        )
    yield {"status": "success"}


async def _pull(
    name: Name, settings: Settings, insecure: bool, limits: Limits
) -> AsyncGenerator[Status, None]:
    yield {"status": "pulling manifest"}
    target = name.plain_http() if insecure else Name(*_parts(name))
    async with Registry.open(target, limits, Login.of(settings)) as registry:
        raw = await registry.manifest()
        found = Manifest.parse(raw, "the registry's answer")
        missing = [x for x in found.blobs if find_blob(x.digest, settings) is None]
        check_space(ours(settings).path, sum(layer.size for layer in missing))
        for layer in found.blobs:
            async with aclosing(_layer(layer, registry, settings)) as statuses:
                async for status in statuses:
                    yield status
    yield {"status": "verifying sha256 digest"}
    yield {"status": "writing manifest"}
    gone = await asyncio.to_thread(commit.save, name, raw, settings)
    if gone:
        yield {"status": "removing unused layers"}
    yield {"status": "success"}


async def _layer(
    layer: Layer, registry: Registry, settings: Settings
) -> AsyncGenerator[Status, None]:
    short = layer.digest.removeprefix("sha256:")[:12]
    told = {"status": f"pulling {short}", "digest": layer.digest, "total": layer.size}
    if find_blob(layer.digest, settings) is None:
        blob = ours(settings).blob(layer.digest)
        download = Download(layer.digest, layer.size, blob, registry, registry.limits)
        async with aclosing(download.run()) as counts:
            async for completed in counts:
                yield told | ({"completed": completed} if completed else {})
    yield told | ({"completed": layer.size} if layer.size else {})


def _hub_repository(name: str, settings: Settings, source: Source) -> hub_cache.Repository | None:
    """The hub's repository that a name means, if it means one."""
    if source == "registry":
        return None
    repository = hub_cache.parse(name)
    try:
        parsed = Name.parse(name)
    except InvalidName:
        return repository
    if parsed.is_hub:
        return repository
    if parsed.host != HOST:
        return None
    if parsed.namespace != NAMESPACE:
        is_plain = parsed.tag == TAG or hub_cache.is_quant(parsed.tag)
        return repository if is_plain else None
    original = aliases.table(settings).get(parsed.shown.lower())
    return hub_cache.parse(original) if source == "hub" and original else None


def _parsed(name: str) -> Name:
    try:
        return Name.parse(name)
    except InvalidName:
        raise Refused("invalid model name") from None


def _parts(name: Name) -> tuple[str, str, str, str]:
    """A scheme in front of the name does not count, as in Ollama."""
    return name.host, name.namespace, name.model, name.tag
