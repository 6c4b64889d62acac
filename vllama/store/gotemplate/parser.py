"""From a template's text to its tree; errors carry Go's words."""

import re
from collections.abc import Sequence
from typing import Any

from vllama.store.gotemplate import functions
from vllama.store.gotemplate.errors import TemplateError
from vllama.store.gotemplate.lexer import Piece, Word, pieces
from vllama.store.gotemplate.tree import (
    Branch,
    Call,
    Chain,
    Dot,
    Function,
    Jump,
    Literal,
    Node,
    Operand,
    Pipeline,
    Print,
    Template,
    Text,
    Variable,
)

_CONSTANTS = {"true": True, "false": False, "nil": None}


def parse(source: str) -> Template:
    """The tree of a template.

    Raises:
        TemplateError: with Go's text, such as `template: :1: unclosed action`.
    """
    parser = _Parser(list(pieces(source)), source.count("\n") + 1)
    try:
        nodes, end = parser.nodes(inside=False)
    except RecursionError as error:
        raise TemplateError(1, "it is nested too deeply") from error
    assert end is None
    return Template(nodes, parser.defined)


class _Parser:
    def __init__(self, found: Sequence[Piece], last_line: int) -> None:
        self.pieces, self.at, self.last_line = found, 0, last_line
        self.defined: dict[str, tuple[Node, ...]] = {}
        self.variables: list[str] = ["$"]
        self.loops = 0

    def nodes(self, inside: bool) -> tuple[tuple[Node, ...], Piece | None]:
        """Nodes up to the `end` or `else` that closes them, and that piece."""
        found: list[Node] = []
        while self.at < len(self.pieces):
            piece = self.pieces[self.at]
            self.at += 1
            if piece.words is None:
                found.append(Text(piece.text))
                continue
            word = _keyword(piece)
            if word in ("end", "else"):
                if not inside:
                    raise TemplateError(piece.line, f"unexpected {{{{{word}}}}}")
                return tuple(found), piece
            node = self.action(word, piece)
            if node is not None:
                found.append(node)
        if inside:
            raise TemplateError(self.last_line, "unexpected EOF")
        return tuple(found), None

    def action(self, word: str, piece: Piece) -> Node | None:
        words = piece.words or ()
        if word in ("if", "with", "range"):
            return self.branch(word, piece, words[1:])
        if word in ("break", "continue"):
            if not self.loops:
                raise TemplateError(piece.line, f"{{{{{word}}}}} outside {{{{range}}}}")
            return Jump(word)
        if word == "template":
            name, rest = self.named(piece, words)
            return Call(name, self.pipeline(rest, piece.line) if rest else None, piece.line)
        if word in ("define", "block"):
            return self.definition(word, piece, words)
        if not words:
            raise TemplateError(piece.line, "missing value for command")
        return Print(self.pipeline(words, piece.line))

    def branch(self, word: str, piece: Piece, words: Sequence[Word]) -> Branch:
        if not words:
            raise TemplateError(piece.line, f"missing value for {word}")
        depth = len(self.variables)
        pipeline = self.pipeline(words, piece.line, in_range=word == "range")
        self.loops += word == "range"
        body, end = self.nodes(inside=True)
        self.loops -= word == "range"
        otherwise: tuple[Node, ...] = ()
        if end is not None and _keyword(end) == "else":
            otherwise = self.otherwise(word, end)
        del self.variables[depth:]
        return Branch(word, pipeline, body, otherwise)

    def otherwise(self, word: str, piece: Piece) -> tuple[Node, ...]:
        words = (piece.words or ())[1:]
        if words:
            if word == "range" or words[0].text != word:
                raise TemplateError(piece.line, f"unexpected <{words[0].text}> in else")
            return (self.branch(word, piece, words[1:]),)
        body, end = self.nodes(inside=True)
        if end is not None and _keyword(end) == "else":
            raise TemplateError(end.line, "expected end; found {{else}}")
        return body

    def definition(self, word: str, piece: Piece, words: Sequence[Word]) -> Node | None:
        name, rest = self.named(piece, words)
        kept, self.variables = self.variables, ["$"]
        body, end = self.nodes(inside=True)
        self.variables = kept
        if end is None or _keyword(end) != "end":
            raise TemplateError(piece.line, f"unexpected {{{{else}}}} in {word} clause")
        self.defined[name] = body
        if word == "define":
            return None
        return Call(name, self.pipeline(rest, piece.line), piece.line)

    def named(self, piece: Piece, words: Sequence[Word]) -> tuple[str, Sequence[Word]]:
        if len(words) < 2 or words[1].kind not in ("string", "raw"):
            raise TemplateError(piece.line, f"unexpected {piece.text!r} in {words[0].text} clause")
        return str(_literal(words[1], piece.line)), words[2:]

    def pipeline(self, words: Sequence[Word], line: int, in_range: bool = False) -> Pipeline:
        names, assigns, rest = self.declared(words, line, in_range)
        reader = _Reader(rest, line, self.variables)
        commands = reader.commands()
        if reader.at < len(rest):
            raise TemplateError(line, f'unexpected "{rest[reader.at].text}" in input')
        if not assigns:
            self.variables += names
        return Pipeline(commands, line, tuple(names), assigns)

    def declared(
        self, words: Sequence[Word], line: int, in_range: bool
    ) -> tuple[list[str], bool, Sequence[Word]]:
        names: list[str] = []
        at = 0
        while at < len(words) and words[at].kind == "variable":
            names.append(words[at].text)
            at += 1
            if in_range and len(names) == 1 and at < len(words) and words[at].text == ",":
                at += 1
                continue
            break
        if not names or at >= len(words) or words[at].text not in (":=", "="):
            return [], False, words
        assigns = words[at].text == "="
        for name in names:
            if assigns and name not in self.variables:
                raise TemplateError(line, f'undefined variable "{name}"')
        return names, assigns, words[at + 1 :]


class _Reader:
    """The commands of one pipeline."""

    def __init__(self, words: Sequence[Word], line: int, variables: Sequence[str]) -> None:
        self.words, self.line, self.variables, self.at = words, line, variables, 0

    def commands(self) -> tuple[tuple[Operand, ...], ...]:
        found: list[tuple[Operand, ...]] = []
        while True:
            command = self.command()
            if not command:
                raise TemplateError(self.line, "missing value for command")
            if found and isinstance(command[0], Literal | Dot):
                text = "non executable command in pipeline stage"
                raise TemplateError(self.line, f"{text} {len(found) + 1}")
            found.append(command)
            if self.peek() != "|":
                return tuple(found)
            self.at += 1

    def command(self) -> tuple[Operand, ...]:
        found: list[Operand] = []
        while self.at < len(self.words) and self.peek() not in ("|", ")"):
            found.append(self.operand())
        return tuple(found)

    def operand(self) -> Operand:
        operand = self.plain()
        fields: list[str] = []
        while self.at < len(self.words):
            word = self.words[self.at]
            if word.kind != "field" or word.spaced:
                break
            fields.append(word.text[1:])
            self.at += 1
        if not fields:
            return operand
        if isinstance(operand, Literal):
            raise TemplateError(self.line, f"unexpected . after term {operand.value!r}")
        if isinstance(operand, Chain):
            return Chain(operand.operand, (*operand.fields, *fields))
        return Chain(operand, tuple(fields))

    def plain(self) -> Operand:
        word = self.words[self.at]
        self.at += 1
        if word.kind == "field":
            return Chain(Dot(), (word.text[1:],))
        if word.kind == "variable":
            if word.text not in self.variables:
                raise TemplateError(self.line, f'undefined variable "{word.text}"')
            return Variable(word.text)
        if word.kind in ("string", "raw", "char", "number"):
            return Literal(_literal(word, self.line))
        if word.kind == "word":
            return self.named(word)
        if word.text == ".":
            return Dot()
        if word.text == "(":
            inner = Pipeline(self.commands(), self.line)
            if self.peek() != ")":
                raise TemplateError(self.line, "unclosed left paren")
            self.at += 1
            return inner
        raise TemplateError(self.line, f'unexpected "{word.text}" in operand')

    def named(self, word: Word) -> Operand:
        if word.text in _CONSTANTS:
            return Literal(_CONSTANTS[word.text])
        if word.text not in functions.NAMES:
            raise TemplateError(self.line, f'function "{word.text}" not defined')
        return Function(word.text)

    def peek(self) -> str:
        word = self.words[self.at] if self.at < len(self.words) else None
        return "" if word is None or word.kind != "sign" else word.text


def _keyword(piece: Piece) -> str:
    first = piece.words[0] if piece.words else None
    return first.text if first is not None and first.kind == "word" else ""


def _literal(word: Word, line: int) -> Any:
    if word.kind == "raw":
        return word.text[1:-1]
    if word.kind == "string":
        return _unquoted(word.text, line)
    if word.kind == "char":
        return ord(_unquoted(word.text, line)[0])
    text = word.text.replace("_", "")
    try:
        return int(text, 0) if not text.lstrip("+-").isdigit() else int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError as error:
        raise TemplateError(line, f'bad number syntax: "{word.text}"') from error


def _unquoted(text: str, line: int) -> str:
    """What a quoted Go string stands for."""
    inner = text[1:-1]
    return _ESCAPE.sub(lambda match: _escaped(match, line), inner) if "\\" in inner else inner


def _escaped(match: re.Match[str], line: int) -> str:
    short, digits = match[1], match[2] or match[3] or match[4] or ""
    if short is not None:
        return _SHORT[short]
    number = int(digits, 8 if match[4] else 16) if digits else -1
    if not 0 <= number < 0x110000:
        raise TemplateError(line, "invalid syntax")
    return chr(number)


_SHORT = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v",
          "\\": "\\", "'": "'", '"': '"'}  # fmt: skip
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\'\"])|x([0-9a-fA-F]{2})|[uU]([0-9a-fA-F]{4,8})|([0-7]{3})|.|$)", re.S
)
