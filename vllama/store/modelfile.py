"""Modelfiles: Ollama's recipe for a model, read line by line."""

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from vllama.errors import UsageError

_WORDS = ("from", "license", "template", "system", "adapter", "draft", "renderer", "parser",
          "parameter", "message", "requires")  # fmt: skip
_INTEGERS = frozenset({"num_keep", "seed", "num_predict", "top_k", "repeat_last_n", "num_ctx",
                       "num_batch", "num_gpu", "main_gpu", "num_thread",
                       "draft_num_predict"})  # fmt: skip
_FLOATS = frozenset({"top_p", "min_p", "typical_p", "temperature", "repeat_penalty",
                     "presence_penalty", "frequency_penalty"})  # fmt: skip
_BOOLEANS = frozenset({"use_mmap"})
# Ollama warns of these and leaves them out.
DEPRECATED = frozenset({"penalize_newline", "low_vram", "f16_kv", "logits_all", "vocab_only",
                        "use_mlock", "mirostat", "mirostat_tau", "mirostat_eta", "tfs_z", "numa",
                        "embedding_only"})  # fmt: skip
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


class ModelfileError(UsageError):
    """A Modelfile is wrong; with the line where one can be named."""


@dataclass(frozen=True, slots=True)
class Modelfile:
    """What a Modelfile says. `sources` are the FROM lines: a name, or paths."""

    sources: tuple[str, ...] = ()
    template: str | None = None
    system: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    licenses: tuple[str, ...] = ()
    messages: tuple[dict[str, str], ...] = ()
    adapters: tuple[str, ...] = ()
    drafts: tuple[str, ...] = ()
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    deprecated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Command:
    line: int
    word: str
    text: str


def decode(raw: bytes) -> str:
    """A Modelfile's text: UTF-8 or UTF-16, with or without a mark in front."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16")
    return raw.decode("utf-8-sig", errors="replace")


def parse(text: str) -> Modelfile:
    """Read a Modelfile.

    Raises:
        ModelfileError: in Ollama's words, with the line.
    """
    made = Modelfile()
    for command in _commands(text):
        made = _ACTIONS[command.word](made, command)
    if not made.sources:
        raise ModelfileError("no FROM line")
    return made


def _commands(text: str) -> Iterator[_Command]:
    at, line = 0, 1
    while at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        row = text[at:end]
        if not row.strip() or row.lstrip().startswith("#"):
            at, line = end + 1, line + 1
            continue
        match = re.match(r"\s*(\S+)[ \t]*", text[at:])
        assert match is not None
        word = match[1].lower()
        if word not in _WORDS:
            listed = ", ".join(f'"{w}"' for w in _WORDS[:-1])
            message = f'command must be one of {listed}, or "{_WORDS[-1]}"'
            raise ModelfileError(f"(line {line}): {message}")
        start = at + match.end()
        if start >= end:  # the word stands alone on its line
            raise ModelfileError(f"(line {line}): unexpected EOF")
        value, after = _argument(text, start, word, line)
        yield _Command(line, word, value)
        line += text.count("\n", at, after)
        at = after


def _argument(text: str, start: int, word: str, line: int) -> tuple[str, int]:
    """A command's value and where the next line begins."""
    if word in ("parameter", "message"):
        match = re.compile(r"(\S+)[ \t]+").match(text, start)
        if match is None:
            raise ModelfileError(f"(line {line}): unexpected EOF")
        value, after = _value(text, match.end(), line)
        return f"{match[1]} {value}", after
    return _value(text, start, line)


def _value(text: str, start: int, line: int) -> tuple[str, int]:
    """A value ends with its line, or with the first line that ends with its closing quote."""
    end = start
    while end <= len(text):
        end = text.find("\n", end)
        end = len(text) if end < 0 else end
        value = _unquoted(text[start:end].strip())
        if value is not None:
            return _clean(value), end + 1
        end += 1
    raise ModelfileError(f"(line {line}): unexpected EOF")


def _unquoted(text: str) -> str | None:
    """The text without its quotes; None while they are not closed."""
    for quote in ('"""', '"'):
        if text.startswith(quote):
            is_closed = len(text) >= 2 * len(quote) and text.endswith(quote)
            return text[len(quote) : -len(quote)] if is_closed else None
    return text


def _clean(text: str) -> str:
    """Without what does not print: control characters, joiners, odd spaces."""
    kept = (c for c in text.replace("\r\n", "\n") if c in "\n\t " or _prints(c))
    return "".join(kept)


def _prints(char: str) -> bool:
    return unicodedata.category(char)[0] not in "CZ"


def _from(made: Modelfile, command: _Command) -> Modelfile:
    return replace(made, sources=(*made.sources, command.text))


def _parameter(made: Modelfile, command: _Command) -> Modelfile:
    name, _, text = command.text.partition(" ")
    name = name.lower()
    if name in DEPRECATED:
        return replace(made, deprecated=(*made.deprecated, name))
    try:
        value = parameter(name, text)
    except ModelfileError as error:
        # Ollama's words; it names no line here.
        raise ModelfileError(f"(line {command.line}): {error.message}") from None
    if name == "stop":
        value = [*made.parameters.get("stop", []), value]
    return replace(made, parameters={**made.parameters, name: value})


def parameter(name: str, text: str) -> Any:
    """A parameter's value of its type.

    Raises:
        ModelfileError: no such parameter, or not its type.
    """
    if name in _INTEGERS:
        if not re.fullmatch(r"[+-]?\d+", text):
            raise ModelfileError(f"invalid int value [{text}]")
        return int(text)
    if name in _FLOATS:
        try:
            return float(text)
        except ValueError as error:
            raise ModelfileError(f"invalid float value [{text}]") from error
    if name in _BOOLEANS:
        if text not in _TRUE | _FALSE:
            raise ModelfileError(f"invalid bool value [{text}]")
        return text in _TRUE
    if name != "stop":
        raise ModelfileError(f"unknown parameter '{name}'")
    return text


def _message(made: Modelfile, command: _Command) -> Modelfile:
    role, _, content = command.text.partition(" ")
    if role not in ("system", "user", "assistant"):
        raise ModelfileError(
            f'(line {command.line}): message role must be one of "system", "user", or "assistant"'
        )
    return replace(made, messages=(*made.messages, {"role": role, "content": content}))


def _license(made: Modelfile, command: _Command) -> Modelfile:
    return replace(made, licenses=(*made.licenses, command.text))


def _requires(made: Modelfile, command: _Command) -> Modelfile:
    if not re.fullmatch(r"v?\d+(\.\d+){0,2}([-+][\w.+-]+)?", command.text):
        message = "requires must be a valid semver (e.g. 0.14.0)"
        raise ModelfileError(f"(line {command.line}): {message}")
    return replace(made, requires=command.text)


_ACTIONS: dict[str, Callable[[Modelfile, _Command], Modelfile]] = {
    "from": _from,
    "parameter": _parameter,
    "message": _message,
    "license": _license,
    "requires": _requires,
    "template": lambda made, command: replace(made, template=command.text),
    "system": lambda made, command: replace(made, system=command.text),
    "renderer": lambda made, command: replace(made, renderer=command.text),
    "parser": lambda made, command: replace(made, parser=command.text),
    "adapter": lambda made, command: replace(made, adapters=(*made.adapters, command.text)),
    "draft": lambda made, command: replace(made, drafts=(*made.drafts, command.text)),
}
