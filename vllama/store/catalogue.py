"""Cards: everything that `show` and `tags` say of a model, read without loading a weight."""

import functools
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from vllama import gguf
from vllama.errors import ModelBroken, ModelNotFound
from vllama.model import Model
from vllama.settings import Settings
from vllama.store import capabilities, chat_template, fingerprint, materialise, names
from vllama.store.card import Card
from vllama.store.manifest import SOURCE, Entry, blob


def card(reference: str, settings: Settings) -> Card:
    """The card of the model that `reference` names.

    Raises:
        ModelNotFound: with names like it.
        ModelBroken: naming the broken file.
    """
    model = names.resolve(reference, settings)
    entry = None if model.path == Path(model.name) else names.stored(reference, settings)
    return _of_files(model) if entry is None else _of_entry(entry, model, settings)


def cards(settings: Settings) -> list[Card]:
    """The cards of all models here, newest first; broken ones are left out."""
    found: dict[str, Card] = {}
    for name in names.bare_names(settings):
        try:
            each = card(name, settings)
        except (ModelBroken, ModelNotFound):
            continue
        found.setdefault(names.key(each.name), each)
    return sorted(found.values(), key=lambda c: c.modified_at, reverse=True)


def parameter_size(parameters: int) -> str:
    """A count as Ollama writes it: `8B`, `3.2B`, `4.20M`, `5K`."""
    for unit, size, digits in (("T", 10**12, 1), ("B", 10**9, 1), ("M", 10**6, 2), ("K", 10**3, 0)):
        if parameters >= size:
            number = parameters / size
            return f"{number:.{0 if number.is_integer() else digits}f}{unit}"
    return str(parameters)


def _of_files(model: Model) -> Card:
    files = fingerprint.files(model)
    newest = max((p.stat().st_mtime for p in files), default=0.0)
    is_folder = model.safetensors is not None
    template = chat_template.of_model(model)
    family = _config(model).get("model_type") if is_folder else model.shape.architecture
    return Card(
        name=names.shown(model.name),
        model=model,
        digest=fingerprint.of(model),
        size_bytes=sum(p.stat().st_size for p in files),
        modified_at=datetime.fromtimestamp(newest).astimezone(),
        format="safetensors" if is_folder else "gguf",
        family=str(family or model.shape.architecture),
        families=(str(family or model.shape.architecture),),
        parameter_size=parameter_size(model.shape.parameters),
        quantization_level=model.shape.quantization,
        capabilities=_abilities(model, template),
        template=template,
    )


def _of_entry(entry: Entry, model: Model, settings: Settings) -> Card:
    """Its files' card, and over it what the layers of the manifest say."""
    source = entry.manifest.first(SOURCE)
    base = _of_files(model)
    if source is not None:
        base = card(materialise.reference(source, settings), settings)
    size = sum(layer.size for layer in entry.manifest.layers) + entry.manifest.config.size
    whole = replace(
        base,
        name=entry.name.shown,
        model=model,
        digest=entry.digest,
        size_bytes=size + (base.size_bytes if source is not None else 0),
        modified_at=entry.modified_at,
        parent_model=_parent(entry),
        adapter=materialise.adapter(entry, settings),
        projector=_file_of("projector", entry, settings),
        draft=_file_of("draft", entry, settings),
        **_told(entry, base, settings),
    )
    written = entry.text("template", settings)
    return _with_template(whole, written[-1], entry) if written else _with_senses(whole, entry)


def _told(entry: Entry, base: Card, settings: Settings) -> dict[str, Any]:
    """The fields of a card that layers and configuration hold."""
    config = entry.config(settings)
    system = entry.text("system", settings) + entry.text("prompt", settings)
    own: dict[str, Any] = {}
    for text in entry.text("params", settings):
        own |= _object(text)
    messages = [m for t in entry.text("messages", settings) for m in _list(t)]
    return {
        "parameters": {**base.parameters, **own},
        "system": system[-1] if system else base.system,
        "messages": tuple(messages) or base.messages,
        "licenses": tuple(entry.text("license", settings)) or base.licenses,
        "requires": str(config.get("requires") or base.requires),
        "renderer": str(config.get("renderer") or base.renderer),
        "parser": str(config.get("parser") or base.parser),
    }


def _with_template(card: Card, written: str, entry: Entry) -> Card:
    """The written template, unless the model's own Jinja template can do more, as in Ollama."""
    kind = chat_template.kind(written)
    offered = capabilities.of_jinja(written) if kind == "jinja" else capabilities.of_go(written)
    own = capabilities.of_jinja(card.template)
    if own > offered and kind == "go" and card.template:
        return _with_senses(card, entry)
    plain = card.capabilities - {"tools", "thinking", "insert"}
    able = plain if "embedding" in plain else plain | offered
    return _with_senses(
        replace(card, template=written, template_kind=kind, capabilities=able), entry
    )


def _with_senses(card: Card, entry: Entry) -> Card:
    if entry.manifest.first("projector") is None:
        return card
    return replace(card, capabilities=card.capabilities | {"vision"})


def _file_of(kind: str, entry: Entry, settings: Settings) -> Path | None:
    """The GGUF file through which the model sees, or the small model that guesses for it."""
    layer = entry.manifest.first(kind)
    return None if layer is None else blob(layer, settings)


def _parent(entry: Entry) -> str:
    layers = [entry.manifest.first("model"), entry.manifest.first(SOURCE), *entry.manifest.layers]
    return next((x.source for x in layers if x is not None and x.source), "")


def _abilities(model: Model, template: str) -> frozenset[str]:
    if model.safetensors is not None:
        senses = capabilities.of_config(_config(model), model.shape.pooling)
    else:
        senses = capabilities.of_gguf(gguf.read(_gguf(model)).metadata)
    return senses if "embedding" in senses else senses | capabilities.of_jinja(template)


def _gguf(model: Model) -> Path:
    if model.gguf is None:
        raise ModelBroken(f"{model.name} has no weights", "Pull it again.")
    return model.gguf


def _config(model: Model) -> Mapping[str, Any]:
    path = model.path / "config.json"
    return _read_config(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _read_config(path: Path, _mtime_ns: int) -> Mapping[str, Any]:
    return _object(path.read_text("utf-8"))


def _object(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _list(text: str) -> list[Any]:
    try:
        document = json.loads(text)
    except ValueError:
        return []
    return document if isinstance(document, list) else []
