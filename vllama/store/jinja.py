"""Running a Jinja chat template as the hub's libraries do, in a sandbox."""

import functools
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vllama import gguf
from vllama.model import Model
from vllama.store import hub_form
from vllama.store.gotemplate.errors import TemplateError

_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
_GGUF_IDS = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    think: bool | str | None,
    tokens: Mapping[str, str],
    *,
    add_generation_prompt: bool = True,
) -> str:
    """The prompt's text.

    Raises:
        TemplateError: the template is wrong, or refuses the messages.
    """
    values: dict[str, Any] = {
        **tokens,
        "messages": [_message(m) for m in hub_form.linked(messages, template)],
        "tools": [hub_form.tool(t) for t in tools] or None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
        **hub_form.switches(think),
    }
    try:
        return _compiled(template).render(values)
    except jinja2.TemplateError as error:
        line = getattr(error, "lineno", None) or 1
        raise TemplateError(line, str(error.message or error)) from error
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise TemplateError(1, f"{type(error).__name__}: {error}") from error


def check(template: str) -> None:
    """Whether a template can be read at all.

    Raises:
        TemplateError: it cannot.
    """
    try:
        _compiled(template)
    except jinja2.TemplateError as error:
        raise TemplateError(getattr(error, "lineno", None) or 1, str(error.message)) from error


def tokens(model: Model) -> dict[str, str]:
    """The special tokens that templates name."""
    if model.safetensors is None:
        return _of_gguf(model)
    try:
        config = json.loads((model.safetensors / "tokenizer_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    found = {name: config.get(name) for name in _TOKENS}
    texts = {n: t.get("content") if isinstance(t, dict) else t for n, t in found.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _of_gguf(model: Model) -> dict[str, str]:
    if model.gguf is None:
        return {}
    metadata = gguf.read(model.gguf, lists=True).metadata
    listed = metadata.get("tokenizer.ggml.tokens") or []
    ids = {n: metadata.get(f"tokenizer.ggml.{key}_token_id") for n, key in _GGUF_IDS.items()}
    return {n: listed[i] for n, i in ids.items() if isinstance(i, int) and 0 <= i < len(listed)}


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """As templates expect it: thinking also under the hub's name, images as parts."""
    kept = {k: v for k, v in message.items() if v not in (None, [], "") or k == "content"}
    if "thinking" in kept:
        kept["reasoning_content"] = kept["thinking"]
    if "tool_name" in kept:
        kept["name"] = kept["tool_name"]
    images = kept.pop("images", None)
    if images:
        parts = [{"type": "image"} for _ in images]
        kept["content"] = [*parts, {"type": "text", "text": kept.get("content") or ""}]
    kept.setdefault("content", "")
    return kept


@functools.lru_cache(maxsize=64)
def _compiled(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON; Jinja's own filter would escape HTML's characters."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)  # fmt: skip


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for training; here it is only passed."""

    tags = {"generation"}  # noqa: RUF012 (Jinja declares it so)

    def parse(self, parser: Parser) -> Node | list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
