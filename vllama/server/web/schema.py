"""The OpenAPI page's view of the request bodies that this server decodes itself."""

from typing import Any

from vllama.server.web.gotypes import Kind, Map, Record, Scalar, Slice

_NAMES = {"string": "string", "bool": "boolean", "int": "integer", "float64": "number"}
# Recursive types stop here: the page is for people and fuzzers, the decoder knows better.
_DEPTH = 6


def body_of(record: Record) -> dict[str, Any]:
    """The `requestBody` of a route."""
    return {"requestBody": {"content": {"application/json": {"schema": _schema(record, _DEPTH)}}}}


def _schema(kind: Kind, depth: int) -> dict[str, Any]:
    if depth == 0:
        return {}
    if isinstance(kind, Scalar):
        return {"type": _NAMES[kind.go]}
    if isinstance(kind, Slice):
        return {"type": "array", "items": _schema(kind.item, depth - 1)}
    if isinstance(kind, Map):
        if kind.item is None:
            return {"type": "object"}
        return {"type": "object", "additionalProperties": _schema(kind.item, depth - 1)}
    if isinstance(kind, Record):
        fields = {name: _schema(each, depth - 1) for name, each in kind.fields.items()}
        return {"type": "object", "title": kind.name, "properties": fields}
    return {}
