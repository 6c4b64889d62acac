"""Cutting a template into text and actions, and actions into words."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from vllama.store.gotemplate.errors import TemplateError

_SPACE = " \t\r\n"
_COMMENT = re.compile(r"(- )?\s*/\*.*?\*/\s*?( -)?\}\}", re.S)
_WORD = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    |(?P<string>"(?:\\.|[^"\\\n])*")
    |(?P<raw>`[^`]*`)
    |(?P<char>'(?:\\.|[^'\\\n])+')
    |(?P<number>[+-]?(?:0[xX][0-9a-fA-F_]+|(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][+-]?\d+)?))
    |(?P<field>\.[^\W\d]\w*)
    |(?P<variable>\$\w*)
    |(?P<word>[^\W\d]\w*)
    |(?P<sign>:=|[=|(),.])""",
    re.X,
)


@dataclass(frozen=True, slots=True)
class Word:
    """A part of an action. `spaced` when a space stands before it."""

    kind: str
    text: str
    spaced: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """Text (`words` is None), or an action's words."""

    line: int
    text: str
    words: tuple[Word, ...] | None = None


def pieces(source: str) -> Iterator[Piece]:
    """The template's pieces, trimmed as their neighbours ask."""
    at, line, trims = 0, 1, False
    while at < len(source):
        start = source.find("{{", at)
        text = source[at:] if start < 0 else source[at:start]
        begins = line
        line += text.count("\n")
        if trims:
            text = text.lstrip(_SPACE)
        if start >= 0 and _trims_before(source, start + 2):
            text = text.rstrip(_SPACE)
        if text:
            yield Piece(begins, text)
        if start < 0:
            return
        comment = _COMMENT.match(source, start + 2)
        end = comment.end() if comment else _end(source, start + 2, line)
        body = source[start + 2 : end - 2]
        trims = len(body) > 1 and body[-1] == "-" and body[-2] in _SPACE
        if not comment:
            inner = body[1:] if _trims_before(source, start + 2) else body
            yield Piece(line, body, tuple(_words(inner[:-1] if trims else inner, line)))
        line += body.count("\n")
        at = end


def _trims_before(source: str, at: int) -> bool:
    return source[at : at + 1] == "-" and source[at + 1 : at + 2] in tuple(_SPACE)


def _end(source: str, at: int, line: int) -> int:
    """Behind the `}}` of an action, which a quoted one is not."""
    pattern = re.compile(r'"(?:\\.|[^"\\\n])*"|`[^`]*`|\'(?:\\.|[^\'\\\n])+\'|\}\}|.', re.S)
    for match in pattern.finditer(source, at):
        if match[0] == "}}":
            return match.end()
        if match[0] == "{" and source[match.end() : match.end() + 1] == "{":
            break
        if match[0] in ('"', "`"):
            kind = "quoted string" if match[0] == '"' else "raw quoted string"
            raise TemplateError(line, f"unterminated {kind}")
    raise TemplateError(line, "unclosed action")


def _words(body: str, line: int) -> Iterator[Word]:
    at, spaced = 0, False
    while at < len(body):
        match = _WORD.match(body, at)
        if match is None:
            raise TemplateError(line, f"unexpected {_quoted(body[at])} in command")
        at = match.end()
        kind = str(match.lastgroup)
        if kind == "space":
            spaced = True
        else:
            yield Word(kind, match[0], spaced)
            spaced = False


def _quoted(char: str) -> str:
    return f"unrecognized character in action: U+{ord(char):04X} {char!r}"
