"""Go's typed decoding: field names whatever their case, nulls that change nothing, and its errors.

A wrong type is noted and decoding goes on, as in Go: the first one noted is the error, unless
a type with a decoder of its own objects at once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

ABSENT: Any = None


class WrongType(ValueError):
    """A value does not fit its field; the text is Go's."""


@dataclass
class Place:
    """Where decoding is: the outermost struct's name, the path of fields, the first fault."""

    struct: str
    path: str = ""
    faults: list[str] = field(default_factory=list)

    def below(self, name: str) -> "Place":
        """The place of a field or item in here."""
        return Place(self.struct, f"{self.path}.{name}" if self.path else name, self.faults)

    def mismatch(self, value: Any, go_type: str) -> Any:
        """Note a wrong type; the field stays as if absent."""
        self.faults.append(_mismatch(kind(value), self.struct, self.path, go_type))
        return ABSENT


class Kind(Protocol):
    """How to read one JSON value that is not null."""

    def read(self, value: Any, place: Place, /) -> Any:
        """The value, or ABSENT after noting why not."""
        ...


@dataclass(frozen=True, slots=True)
class Scalar:
    """A string, bool, int or float."""

    go: str
    accepts: tuple[type, ...]

    def read(self, value: Any, place: Place, /) -> Any:
        """The value itself."""
        if isinstance(value, self.accepts) and (
            not isinstance(value, bool) or bool in self.accepts
        ):
            return value
        if self.go == "int" and isinstance(value, float):
            number = f"number {int(value) if value.is_integer() else value}"
            place.faults.append(_mismatch(number, place.struct, place.path, self.go))
            return ABSENT
        return place.mismatch(value, self.go)


@dataclass(frozen=True, slots=True)
class Slice:
    """An array; `go` is the whole type's name."""

    item: Kind
    go: str
    shows_index: bool = False

    def read(self, value: Any, place: Place, /) -> Any:
        """The items, nulls among them left as None."""
        if not isinstance(value, list):
            return place.mismatch(value, self.go)
        inner = [place.below(str(i)) if self.shows_index else place for i in range(len(value))]
        return [
            None if item is None else self.item.read(item, at)
            for item, at in zip(value, inner, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Map:
    """An object with any keys."""

    go: str = "map[string]interface {}"
    item: Kind | None = None

    def read(self, value: Any, place: Place, /) -> Any:
        """The object."""
        if not isinstance(value, dict):
            return place.mismatch(value, self.go)
        if self.item is None:
            return value
        return {k: None if v is None else self.item.read(v, place) for k, v in value.items()}


@dataclass(frozen=True, slots=True)
class Anything:
    """Kept as it came."""

    def read(self, value: Any, _place: Place, /) -> Any:
        """The value."""
        return value


@dataclass(frozen=True, slots=True)
class Record:
    """A struct. `own_decoder` is the name it has in errors when it decodes itself."""

    name: str
    go: str
    fields: Mapping[str, Kind]
    own_decoder: str = ""

    def read(self, value: Any, place: Place, /) -> Any:
        """A dict of the known fields that are there."""
        if self.own_decoder:
            place = Place(self.own_decoder)
        if not isinstance(value, dict):
            if self.own_decoder:
                raise WrongType(_mismatch(kind(value), "", "", self.go))
            return place.mismatch(value, self.go)
        found = self._fields(value, place)
        if self.own_decoder and place.faults:
            raise WrongType(place.faults[0])
        return found

    def _fields(self, value: dict[str, Any], place: Place) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, each in value.items():
            name = key if key in self.fields else key.casefold()
            reader = self.fields.get(name)
            if reader is None:
                continue
            # Most of all values, and what fits has no place in an error.
            if type(reader) is Scalar and type(each) in reader.accepts:
                found[name] = each
                continue
            if each is None:
                # Null empties a slice, map or pointer; it does not touch a scalar.
                if not isinstance(reader, Scalar):
                    found.pop(name, None)
                continue
            result = reader.read(each, place.below(name))
            if result is not ABSENT:
                found[name] = result
        return found


@dataclass(frozen=True, slots=True)
class Own:
    """A type with a decoder of its own, whose error ends decoding at once."""

    decode: Callable[[Any], Any]

    def read(self, value: Any, _place: Place, /) -> Any:
        """Whatever `decode` makes of it."""
        return self.decode(value)


TEXT = Scalar("string", (str,))
TRUTH = Scalar("bool", (bool,))
WHOLE = Scalar("int", (int,))
REAL = Scalar("float64", (int, float))
ANYTHING = Anything()
OBJECT = Map()
TEXTS = Slice(TEXT, "[]string")


def unmarshal(value: Any, record: Record) -> dict[str, Any]:
    """The fields of a request's body.

    Raises:
        WrongType: with Go's text.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise WrongType(_mismatch(kind(value), "", "", record.go))
    place = Place(record.name)
    found: dict[str, Any] = record.read(value, place)
    if place.faults:
        raise WrongType(place.faults[0])
    return found


def kind(value: Any) -> str:
    """What Go's decoder calls a JSON value."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "string"
    if isinstance(value, int | float):
        return "number"
    return "array" if isinstance(value, list) else "object"


def _mismatch(what: str, struct: str, path: str, go_type: str) -> str:
    if not path:
        return f"json: cannot unmarshal {what} into Go value of type {go_type}"
    return f"json: cannot unmarshal {what} into Go struct field {struct}.{path} of type {go_type}"
