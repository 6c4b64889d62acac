"""Making a model out of another, or out of uploaded files: what `/api/create` does."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, TypeAlias

from vllama.errors import ModelNotFound
from vllama.settings import Settings
from vllama.store import changes, chat_template, commit, jinja, manifest, names, templates, uploads
from vllama.store.blobs import Blobs
from vllama.store.errors import Refused
from vllama.store.gotemplate import TemplateError
from vllama.store.layout import InvalidDigest, hex_of
from vllama.store.manifest import SOURCE, Layer, Manifest, media_type
from vllama.store.reference import InvalidName, Name

Status: TypeAlias = dict[str, Any]
# A base that is not here is fetched over TLS; a test's registry has none.
INSECURE = False
_CONFIG = ("model_format", "model_family", "model_families", "model_type", "file_type",
           "renderer", "parser", "requires")  # fmt: skip


@dataclass(slots=True)
class _Draft:
    """A model under way: its layers, its configuration's fields, and which blobs are new."""

    layers: list[Layer] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)

    def put(self, kind: str, data: bytes, settings: Settings, *, replaces: bool = True) -> None:
        """Add a layer; of most kinds there is only one."""
        if replaces:
            self.layers = [layer for layer in self.layers if layer.kind != kind]
        raw = Blobs(settings)
        digest_was_here = raw.has(uploads.digest(data))
        layer = raw.layer(media_type(kind), data)
        if digest_was_here:
            self.known.add(layer.digest)
        self.layers.append(layer)


async def create(request: Mapping[str, Any], settings: Settings) -> AsyncGenerator[Status, None]:
    """Make the model that `request` (the body of `/api/create`) describes, telling how it goes.

    Raises:
        Refused: in Ollama's words, with its status.
        StorageError: the disk is full; the model does not exist then.
    """
    name = _name(request)
    files, adapters = _files(request, "files"), _files(request, "adapters")
    draft = _Draft()
    if request.get("from"):
        async with aclosing(_base(str(request["from"]), draft, settings)) as statuses:
            async for status in statuses:
                yield status
    elif "files" in request and request["files"] is not None:
        async for status in uploads.model(files, settings, draft.layers, draft.config):
            yield status
    else:
        raise Refused("neither 'from' or 'files' was specified")
    quantize = request.get("quantize") or request.get("quantization")
    if quantize:
        work = uploads.quantized(draft.layers, draft.config, str(quantize), settings)
        async with aclosing(work) as statuses:
            async for status in statuses:
                yield status
    if adapters:
        async for status in uploads.adapter(adapters, draft.layers, settings):
            yield status
    async with aclosing(_drafter(request, draft, settings)) as statuses:
        async for status in statuses:
            yield status
    _lay(request, draft, settings)
    config = commit.config(draft.config, draft.layers, settings)
    for layer in draft.layers:
        is_known = layer.digest in draft.known
        yield {"status": f"{'using existing' if is_known else 'creating new'} layer {layer.digest}"}
    yield {"status": "writing manifest"}
    raw = Manifest(config, tuple(draft.layers)).raw()
    await asyncio.to_thread(commit.save, name, raw, settings)
    yield {"status": "success"}


async def _drafter(
    request: Mapping[str, Any], draft: _Draft, settings: Settings
) -> AsyncGenerator[Status, None]:
    """Add the draft model, if one is given."""
    files, wanted = _files(request, "draft_files"), str(request.get("draft_quantize") or "")
    if wanted and not files:
        raise Refused("--draft-quantize requires a DRAFT model")
    if files:
        async with aclosing(uploads.drafter(files, wanted, draft.layers, settings)) as statuses:
            async for status in statuses:
                yield status


def _name(request: Mapping[str, Any]) -> Name:
    try:
        return Name.parse(str(request.get("model") or request.get("name") or ""))
    except InvalidName:
        raise Refused("invalid model name") from None


def _files(request: Mapping[str, Any], key: str) -> dict[str, str]:
    """A map of relative paths to digests."""
    found = dict(request.get(key) or {})
    for path, digest in found.items():
        parts = PurePosixPath(path)
        # A drive letter or a backslash would be absolute, or lead out, on Windows.
        outside = parts.is_absolute() or ".." in parts.parts or re.match(r"[A-Za-z]:|\\", path)
        if outside or "\\" in path or "\0" in path or not path:
            raise Refused("file path must be relative")
        try:
            hex_of(digest)
        except (InvalidDigest, TypeError):
            raise Refused("invalid digest format", 500) from None
    return found


async def _base(reference: str, draft: _Draft, settings: Settings) -> AsyncGenerator[Status, None]:
    """Take over the base's layers; a base that has no manifest stays where it is."""
    entry = names.stored(reference, settings)
    if entry is None and not _is_here(reference, settings):
        from vllama.store import transfers

        async with aclosing(transfers.pull(reference, settings, insecure=INSECURE)) as statuses:
            async for status in statuses:
                if status["status"] != "success":
                    yield status
        entry = names.stored(reference, settings)
    if entry is None:
        layer = changes.source_layer(reference, settings)
        draft.layers = [layer]
        draft.known = {layer.digest}
        return
    parent = entry.name.shown
    weights = ("model", SOURCE)
    draft.layers = [
        replace(layer, source=parent) if layer.kind in weights else layer
        for layer in entry.manifest.layers
    ]
    draft.known = {layer.digest for layer in draft.layers}
    draft.config = {k: v for k, v in entry.config(settings).items() if k in _CONFIG}


def _is_here(reference: str, settings: Settings) -> bool:
    try:
        names.resolve(reference, settings)
    except ModelNotFound:
        return False
    return True


def _lay(request: Mapping[str, Any], draft: _Draft, settings: Settings) -> None:
    """The layers that the request itself holds, over those of the base."""
    template = request.get("template")
    if template:
        _check_template(str(template))
        draft.put("template", str(template).encode(), settings)
    if request.get("system"):
        draft.layers = [layer for layer in draft.layers if layer.kind != "prompt"]
        draft.put("system", str(request["system"]).encode(), settings)
    for text in _licenses(request.get("license")):
        draft.put("license", text.encode(), settings, replaces=False)
    parameters = request.get("parameters")
    if parameters:
        whole = {**_parameters(draft, settings), **parameters}
        draft.put("params", _json(whole), settings)
    if request.get("messages"):
        messages = [{k: v for k, v in m.items() if v} for m in request["messages"]]
        draft.put("messages", _json(messages), settings)
    for key in ("renderer", "parser", "requires"):
        if request.get(key):
            draft.config[key] = str(request[key])


def _check_template(text: str) -> None:
    try:
        if chat_template.kind(text) == "jinja":
            jinja.check(text)
        else:
            templates.compiled(text)
    except TemplateError as error:
        raise Refused(f"template error: {error.message}") from error


def _licenses(given: Any) -> list[str]:
    if given is None or given == "":
        return []
    if isinstance(given, str):
        return [given]
    if isinstance(given, list) and all(isinstance(text, str) for text in given):
        return [text for text in given if text]
    kind = {bool: "bool", int: "number", float: "number", dict: "object"}.get(type(given), "array")
    raise Refused(f"json: cannot unmarshal {kind} into Go value of type []string", 500)


def _parameters(draft: _Draft, settings: Settings) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for layer in draft.layers:
        if layer.kind == "params":
            found |= json.loads(manifest.blob(layer, settings).read_bytes())
    return found


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
