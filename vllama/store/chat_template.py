"""Finding a model's own chat template, and telling Jinja from Ollama's Go templates."""

import json
import re
from pathlib import Path
from typing import Any, Literal

from vllama import gguf
from vllama.model import Model


def of_model(model: Model) -> str:
    """The Jinja template that a model's files bring along; empty when there is none."""
    if model.safetensors is not None:
        return of_folder(model.safetensors)
    if model.gguf is None:
        return ""
    return str(gguf.read(model.gguf).metadata.get("tokenizer.chat_template") or "")


def of_folder(folder: Path) -> str:
    """As the hub's libraries look for it: its own file first, then the tokenizer's settings."""
    own = folder / "chat_template.jinja"
    if own.is_file():
        return own.read_text("utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        found = _text(_json(folder / name).get("chat_template"))
        if found:
            return found
    return ""


def kind(template: str) -> Literal["jinja", "go"]:
    """Which language a template is in; plain text is Go's, as in a Modelfile."""
    if re.search(
        r"\{%|\{\{-?\s*(bos_token|messages|message\b|eos_token|raise_exception)", template
    ):
        return "jinja"
    return "go"


def _text(template: Any) -> str:
    """Of several named templates the one with tools, else the default."""
    if isinstance(template, str):
        return template
    if not isinstance(template, list):
        return ""
    named = {t.get("name"): str(t.get("template", "")) for t in template if isinstance(t, dict)}
    return named.get("tool_use") or named.get("default") or ""


def _json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
