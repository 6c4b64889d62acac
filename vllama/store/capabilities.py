"""What a model can do, as the API names it: read from its template, configuration and metadata."""

import re
from collections.abc import Mapping
from typing import Any

_HARMONY = frozenset({"gptoss", "gpt-oss", "gpt_oss"})
# A think block that a template opens or strips; `<think>` alone may be a mere mention.
_THINK_TAGS = ("<think>", "</think>")


def of_jinja(template: str) -> frozenset[str]:
    """What a Jinja chat template offers beyond completion."""
    found = set()
    if re.search(r"\b(tools|tool_calls?)\b", template):
        found.add("tools")
    if all(tag in template for tag in _THINK_TAGS) or "enable_thinking" in template:
        found.add("thinking")
    return frozenset(found)


def of_go(template: str) -> frozenset[str]:
    """What one of Ollama's Go templates offers beyond completion."""
    found = set()
    if re.search(r"\.Tools\b", template):
        found.add("tools")
    if re.search(r"\.Suffix\b", template):
        found.add("insert")
    if re.search(r"\.(Thinking|Think|ThinkLevel)\b", template):
        found.add("thinking")
    return frozenset(found)


def of_gguf(metadata: Mapping[str, Any], *, has_projector: bool = False) -> frozenset[str]:
    """What the metadata says whatever the template: completion or embedding, and the senses."""
    arch = str(metadata.get("general.architecture", ""))
    found = {"embedding" if f"{arch}.pooling_type" in metadata else "completion"}
    if has_projector or f"{arch}.vision.block_count" in metadata:
        found.add("vision")
    if f"{arch}.audio.block_count" in metadata:
        found.add("audio")
    return frozenset(found | (frozenset({"thinking"}) if arch in _HARMONY else frozenset()))


def of_config(config: Mapping[str, Any], pooling: str | None) -> frozenset[str]:
    """What a `config.json` says: an architecture without a language model's head embeds."""
    architecture = str((config.get("architectures") or [""])[0])
    embeds = pooling is not None or re.search(r"(Model|ForSequenceClassification)$", architecture)
    found = {"embedding" if embeds else "completion"}
    if config.get("vision_config") or "vision_tower" in config:
        found.add("vision")
    if config.get("audio_config"):
        found.add("audio")
    if str(config.get("model_type", "")) in _HARMONY:
        found.add("thinking")
    return frozenset(found)
