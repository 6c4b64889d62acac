"""What `tags`, `ps` and `show` say of a model."""

import functools
import hashlib
import math
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from vllama import hardware
from vllama.server.lifecycle.pool import Loaded
from vllama.server.relay.written import moment
from vllama.settings import Settings
from vllama.store import details, names
from vllama.store.card import Card

# Ollama's for ever.
_AGES = timedelta(days=292 * 365.25)


def listed(card: Card) -> dict[str, Any]:
    """An entry of `tags`."""
    shape = card.model.shape
    more = {"context_length": shape.context_length, "embedding_length": shape.hidden_size}
    return {
        "name": card.name,
        "model": card.name,
        "modified_at": moment(card.modified_at),
        "size": card.size_bytes,
        "digest": card.digest,
        "details": {**described(card), **more},
        "capabilities": sorted(card.capabilities),
    }


def attached(name: str) -> dict[str, Any]:
    """An entry of `tags` for a model that somebody else runs."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return {
        "name": name,
        "model": name,
        "modified_at": moment(datetime.now().astimezone()),
        "size": 0,
        "digest": digest,
        "details": {**_described_unknown(), "context_length": 0, "embedding_length": 0},
        "capabilities": ["completion", "tools"],
    }


def running(loaded: Loaded, card: Card | None) -> dict[str, Any]:
    """An entry of `ps`."""
    name = names.shown(loaded.name) if card is None else card.name
    size = loaded.need_bytes or (card.size_bytes if card is not None else 0)
    now = datetime.now().astimezone()
    is_endless = math.isinf(loaded.expires_in_s)
    expires = now + (_AGES if is_endless else timedelta(seconds=loaded.expires_in_s))
    digest = card.digest if card is not None else hashlib.sha256(name.encode()).hexdigest()
    return {
        "name": name,
        "model": name,
        "size": size,
        "digest": digest,
        "details": described(card) if card is not None else _described_unknown(),
        "expires_at": moment(expires),
        "size_vram": size if _has_gpu() else 0,
        "context_length": context_length(loaded, card),
    }


def shown(card: Card, verbose: bool, system: str) -> dict[str, Any]:
    """The answer of `show`; `system` overrides the model's."""
    told: dict[str, Any] = {}
    if card.licenses:
        told["license"] = "\n".join(card.licenses)
    told["modelfile"] = details.modelfile(_with_system(card, system))
    if card.parameters:
        told["parameters"] = details.parameters(card)
    if card.template:
        told["template"] = card.template
    if system or card.system:
        told["system"] = system or card.system
    told["details"] = described(card)
    if card.messages:
        told["messages"] = [dict(message) for message in card.messages]
    told["model_info"] = details.model_info(card, verbose)
    projector = details.projector_info(card)
    if projector:
        told["projector_info"] = projector
    told["tensors"] = details.tensors(card)
    told["capabilities"] = sorted(card.capabilities)
    told["modified_at"] = moment(card.modified_at)
    if card.requires:
        told["requires"] = card.requires
    return told


def shown_attached(name: str) -> dict[str, Any]:
    """The answer of `show` for a model that somebody else runs."""
    return {
        "modelfile": "",
        "parameters": "",
        "template": "",
        "details": _described_unknown(),
        "model_info": {"general.architecture": "unknown", "general.basename": name},
        "capabilities": ["completion", "tools"],
        "modified_at": moment(datetime.now().astimezone()),
    }


def described(card: Card) -> dict[str, Any]:
    """The `details` of a model."""
    return {
        "parent_model": card.parent_model,
        "format": card.format,
        "family": card.family,
        "families": list(card.families) or [card.family],
        "parameter_size": card.parameter_size,
        "quantization_level": card.quantization_level,
    }


def context_length(loaded: Loaded, card: Card | None) -> int:
    """How many tokens one request may have."""
    facts = loaded.endpoint.facts
    for name in ("max_model_len", "n_ctx_slot", "context_length"):
        if name in facts:
            return int(facts[name])
    return card.model.shape.context_length if card is not None else 0


def _described_unknown() -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "",
        "family": "",
        "families": [],
        "parameter_size": "",
        "quantization_level": "",
    }


def _with_system(card: Card, system: str) -> Card:
    return replace(card, system=system) if system else card


@functools.cache
def _has_gpu() -> bool:
    return bool(hardware.visible(Settings.from_environment().environment).gpus)
