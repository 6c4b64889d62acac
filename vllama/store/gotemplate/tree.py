"""What a template is made of once it is parsed."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Literal:
    """A string, a number, `true`, `false` or `nil`."""

    value: Any


@dataclass(frozen=True, slots=True)
class Dot:
    """`.`"""


@dataclass(frozen=True, slots=True)
class Variable:
    """`$x`, or `$` alone."""

    name: str


@dataclass(frozen=True, slots=True)
class Function:
    """A function's name."""

    name: str


@dataclass(frozen=True, slots=True)
class Chain:
    """Fields of an operand: `.A.B`, `$x.A`, `(…).A`."""

    operand: "Operand"
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Commands whose values flow on; a declaration gives the last one to variables."""

    commands: tuple[tuple["Operand", ...], ...]
    line: int
    variables: tuple[str, ...] = ()
    assigns: bool = False


Operand: TypeAlias = Literal | Dot | Variable | Function | Chain | Pipeline


@dataclass(frozen=True, slots=True)
class Text:
    """What stands between actions."""

    text: str


@dataclass(frozen=True, slots=True)
class Print:
    """`{{ pipeline }}`"""

    pipeline: Pipeline


@dataclass(frozen=True, slots=True)
class Branch:
    """`if`, `with` or `range`, with what is done otherwise."""

    word: str
    pipeline: Pipeline
    body: tuple["Node", ...]
    otherwise: tuple["Node", ...] = ()


@dataclass(frozen=True, slots=True)
class Jump:
    """`break` or `continue`."""

    word: str


@dataclass(frozen=True, slots=True)
class Call:
    """`{{ template "name" pipeline }}`"""

    name: str
    pipeline: Pipeline | None
    line: int


Node: TypeAlias = Text | Print | Branch | Jump | Call


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template and those that it defines."""

    nodes: tuple[Node, ...]
    defined: dict[str, tuple[Node, ...]] = field(default_factory=dict)

    @property
    def fields(self) -> frozenset[str]:
        """Every field that it names anywhere."""
        lists = (self.nodes, *self.defined.values())
        return frozenset(f for nodes in lists for node in nodes for f in _of_node(node))

    def up_to(self, name: str) -> "Template":
        """The template without all that comes after the first mention of a field."""
        cut = _Cut(name)
        return Template(cut.nodes(self.nodes), self.defined)


class _Cut:
    def __init__(self, name: str) -> None:
        self.name, self.is_done = name, False

    def nodes(self, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        kept: list[Node] = []
        for node in nodes:
            if self.is_done:
                break
            kept.append(self.node(node))
        return tuple(kept)

    def node(self, node: Node) -> Node:
        if isinstance(node, Print | Call) and node.pipeline is not None:
            self.is_done = self.name in set(_of_pipeline(node.pipeline))
        if not isinstance(node, Branch):
            return node
        self.is_done = self.name in set(_of_pipeline(node.pipeline))
        body = self.nodes(node.body)
        return Branch(node.word, node.pipeline, body, self.nodes(node.otherwise))


def _of_node(node: Node) -> Iterator[str]:
    if isinstance(node, Print | Call | Branch) and node.pipeline is not None:
        yield from _of_pipeline(node.pipeline)
    if isinstance(node, Branch):
        for each in (*node.body, *node.otherwise):
            yield from _of_node(each)


def _of_pipeline(pipeline: Pipeline) -> Iterator[str]:
    for command in pipeline.commands:
        for operand in command:
            yield from _of_operand(operand)


def _of_operand(operand: Operand) -> Iterator[str]:
    if isinstance(operand, Chain):
        yield from operand.fields
        yield from _of_operand(operand.operand)
    elif isinstance(operand, Pipeline):
        yield from _of_pipeline(operand)
