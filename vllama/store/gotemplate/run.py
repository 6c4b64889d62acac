"""Running a template on its data."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any

from vllama.store.gotemplate import functions
from vllama.store.gotemplate.errors import TemplateError
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
from vllama.store.gotemplate.values import Record, is_true, printed

_NOTHING = object()
# A template that calls itself for ever ends with an error, as in Go.
_DEEPEST = 100
# More turns than any prompt has: a template must not keep a server busy.
_LONGEST = 100_000


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


def execute(template: Template, data: Mapping[str, Any], today: date | None = None) -> str:
    """The template's text for `data`.

    Raises:
        TemplateError: it asks for what the data does not have.
    """
    run = _Run(template, functions.table(today or date.today()))
    run.nodes(template.nodes, data, [("$", data)])
    return "".join(run.out)


class _Run:
    def __init__(self, template: Template, table: Mapping[str, Any]) -> None:
        self.template, self.functions, self.depth = template, table, 0
        self.out: list[str] = []

    def nodes(self, nodes: Sequence[Node], dot: Any, scope: list[tuple[str, Any]]) -> None:
        mark = len(scope)
        for node in nodes:
            self.node(node, dot, scope)
        del scope[mark:]

    def node(self, node: Node, dot: Any, scope: list[tuple[str, Any]]) -> None:
        if isinstance(node, Text):
            self.out.append(node.text)
        elif isinstance(node, Print):
            value = self.pipeline(node.pipeline, dot, scope)
            if not node.pipeline.variables:
                self.out.append(printed(value))
        elif isinstance(node, Branch):
            self.branch(node, dot, scope)
        elif isinstance(node, Jump):
            raise _Break if node.word == "break" else _Continue
        else:
            self.call(node, dot, scope)

    def branch(self, node: Branch, dot: Any, scope: list[tuple[str, Any]]) -> None:
        mark = len(scope)
        if node.word == "range":
            self.loop(node, dot, scope)
        else:
            value = self.pipeline(node.pipeline, dot, scope)
            inner = value if node.word == "with" and is_true(value) else dot
            self.nodes(node.body if is_true(value) else node.otherwise, inner, scope)
        del scope[mark:]

    def loop(self, node: Branch, dot: Any, scope: list[tuple[str, Any]]) -> None:
        value = self.pipeline(node.pipeline, dot, scope, keep=False)
        names, mark, is_empty = node.pipeline.variables, len(scope), True
        for key, item in _pairs(value, node.pipeline.line):
            is_empty = False
            held = (item,) if len(names) == 1 else (key, item)
            for name, each in zip(names, held, strict=False):
                self.set(name, each, scope, node.pipeline.assigns)
            try:
                self.nodes(node.body, item, scope)
            except _Continue:
                pass
            except _Break:
                break
            finally:
                del scope[mark:]
        del scope[mark:]
        if is_empty:
            self.nodes(node.otherwise, dot, scope)

    def call(self, node: Call, dot: Any, scope: list[tuple[str, Any]]) -> None:
        body = self.template.defined.get(node.name)
        if body is None:
            raise TemplateError(node.line, f'template "{node.name}" not defined')
        if self.depth >= _DEEPEST:
            raise TemplateError(node.line, f"exceeded maximum template depth ({_DEEPEST})")
        data = None if node.pipeline is None else self.pipeline(node.pipeline, dot, scope)
        self.depth += 1
        self.nodes(body, data, [("$", data)])
        self.depth -= 1

    def pipeline(
        self, pipeline: Pipeline, dot: Any, scope: list[tuple[str, Any]], keep: bool = True
    ) -> Any:
        value: Any = _NOTHING
        for command in pipeline.commands:
            value = self.command(command, value, pipeline.line, dot, scope)
        if keep:
            for name in pipeline.variables:
                self.set(name, value, scope, pipeline.assigns)
        return value

    def set(self, name: str, value: Any, scope: list[tuple[str, Any]], assigns: bool) -> None:
        if assigns:
            for at in range(len(scope) - 1, -1, -1):
                if scope[at][0] == name:
                    scope[at] = (name, value)
                    return
        scope.append((name, value))

    def command(
        self,
        command: tuple[Operand, ...],
        piped: Any,
        line: int,
        dot: Any,
        scope: list[tuple[str, Any]],
    ) -> Any:
        head, *rest = command
        if not isinstance(head, Function):
            if rest or piped is not _NOTHING:
                raise TemplateError(line, f"can't give argument to non-function {_name(head)}")
            return self.operand(head, line, dot, scope)
        if head.name in functions.LAZY:
            return self.lazy(head.name, rest, piped, line, dot, scope)
        values = [self.operand(each, line, dot, scope) for each in rest]
        if piped is not _NOTHING:
            values.append(piped)
        try:
            return self.functions[head.name](*values)
        except (TypeError, ValueError, IndexError, KeyError) as error:
            raise TemplateError(line, f"error calling {head.name}: {error}") from error

    def lazy(
        self,
        name: str,
        operands: Sequence[Operand],
        piped: Any,
        line: int,
        dot: Any,
        scope: list[tuple[str, Any]],
    ) -> Any:
        value: Any = _NOTHING
        for operand in operands:
            value = self.operand(operand, line, dot, scope)
            if is_true(value) == (name == "or"):
                return value
        if piped is not _NOTHING:
            return piped
        if value is _NOTHING:
            raise TemplateError(line, f"wrong number of args for {name}: want at least 1 got 0")
        return value

    def operand(self, operand: Operand, line: int, dot: Any, scope: list[tuple[str, Any]]) -> Any:
        if isinstance(operand, Literal):
            return operand.value
        if isinstance(operand, Dot):
            return dot
        if isinstance(operand, Variable):
            return next(v for n, v in reversed(scope) if n == operand.name)
        if isinstance(operand, Pipeline):
            return self.pipeline(operand, dot, scope)
        if isinstance(operand, Function):
            return self.command((operand,), _NOTHING, line, dot, scope)
        value = self.operand(operand.operand, line, dot, scope)
        for field in operand.fields:
            value = _field(value, field, line)
        return value


def _field(value: Any, name: str, line: int) -> Any:
    if isinstance(value, Record):
        if name not in value:
            kind = value.kind or "struct"
            raise TemplateError(line, f"can't evaluate field {name} in type {kind}")
        return value[name]
    if isinstance(value, Mapping):
        return value.get(name)
    if value is None:
        raise TemplateError(line, f"nil pointer evaluating interface {{}}.{name}")
    raise TemplateError(line, f"can't evaluate field {name} in type {_kind(value)}")


def _pairs(value: Any, line: int) -> Iterator[tuple[Any, Any]]:
    if value is None:
        return iter(())
    if isinstance(value, bool | str | float):
        raise TemplateError(line, f"range can't iterate over {printed(value)}")
    if isinstance(value, int):
        if value > _LONGEST:
            raise TemplateError(line, f"range over {value} is too long")
        return ((n, n) for n in range(value))
    if isinstance(value, Mapping):
        ordered = value.items() if hasattr(value, "text") else sorted(value.items())
        return iter(ordered)
    return iter(enumerate(value))


def _kind(value: Any) -> str:
    names = {str: "string", bool: "bool", int: "int", float: "float64"}
    return names.get(type(value), "[]interface {}")


def _name(operand: Operand) -> str:
    return f".{'.'.join(operand.fields)}" if isinstance(operand, Chain) else str(operand)
