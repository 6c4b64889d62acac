"""Card: what the store knows of a model beyond its weights; `show` and `tags` tell it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

from vllama.model import Format, Model

Parameters: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Card:
    """One model under one name.

    `name` is as shown: always with a tag. `digest` is 64 hex digits without `sha256:`.
    `parameters` are Ollama's options by name, `stop` as a list. `template` is Jinja or one
    of Ollama's Go templates, as `template_kind` says; empty when the model has none.
    `capabilities` as of the API: completion, tools, insert, vision, embedding, thinking.
    """

    name: str
    model: Model
    digest: str
    size_bytes: int
    modified_at: datetime
    format: Format
    family: str
    parameter_size: str
    quantization_level: str
    capabilities: frozenset[str]
    families: tuple[str, ...] = ()
    template: str = ""
    template_kind: Literal["jinja", "go"] = "jinja"
    system: str = ""
    parameters: Parameters = field(default_factory=dict)
    messages: tuple[Mapping[str, Any], ...] = ()
    licenses: tuple[str, ...] = ()
    parent_model: str = ""
    requires: str = ""
    renderer: str = ""
    parser: str = ""
    adapter: Path | None = None
    projector: Path | None = None
    draft: Path | None = None
