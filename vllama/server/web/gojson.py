"""JSON as Go's decoder reads it: the first value counts, and errors are in its words.

The fast decoder reads what is right; only what it rejects is looked at byte by byte.
"""

import json
import math
import re
from typing import Any, NoReturn

import msgspec

_SPACE = b" \t\n\r"
_HEX = b"0123456789abcdefABCDEF"
_DEPTH = 10_000
_SURROGATE = re.compile("[\ud800-\udfff]")
_LITERALS = {ord("t"): b"true", ord("f"): b"false", ord("n"): b"null"}


class NoBody(ValueError):
    """There is no value at all."""


class Malformed(ValueError):
    """It is no JSON; the text is Go's."""


def decode(body: bytes) -> Any:
    """The first JSON value in `body`.

    Raises:
        NoBody: nothing but white space.
        Malformed: with the text of Go's decoder.
    """
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _slowly(body)


def _slowly(body: bytes) -> Any:
    scanner = _Scanner(body)
    end = scanner.value_end()
    text = body[scanner.start : end].decode("utf-8", "replace")
    try:
        value = json.loads(text, parse_int=_whole)
    except RecursionError:
        raise Malformed("exceeded max depth") from None
    return _without_lone_surrogates(value) if "\\u" in text else value


def _whole(digits: str) -> int | float:
    # Python refuses to read integers of thousands of digits.
    return int(digits) if len(digits) < 400 else math.inf


def _without_lone_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_without_lone_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_SURROGATE.sub("\ufffd", k): _without_lone_surrogates(v) for k, v in value.items()}
    return value


class _Scanner:
    """Finds the end of the first value, or says in Go's words why there is none."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0
        self._skip()
        if self._at == len(body):
            raise NoBody("EOF")
        self.start = self._at

    def value_end(self) -> int:
        """Where the value ends."""
        open_: list[int] = []
        while True:
            self._value(open_)
            while open_:
                self._skip()
                if not self._closes_or_goes_on(open_):
                    break
            else:
                return self._at

    def _value(self, open_: list[int]) -> None:
        """One whole scalar or empty collection, after all that opens before it."""
        while True:
            self._skip()
            byte = self._next()
            if byte not in b"{[":
                break
            if len(open_) >= _DEPTH:
                raise Malformed("exceeded max depth")
            if not self._opened(byte, open_):
                return
        if byte == ord('"'):
            self._text()
        elif byte in b"-0123456789":
            self._number(byte)
        elif byte in _LITERALS:
            self._literal(_LITERALS[byte])
        else:
            self._wrong(byte, "looking for beginning of value")

    def _opened(self, byte: int, open_: list[int]) -> bool:
        """Step into an array or object; False when it is empty."""
        self._skip()
        is_object = byte == ord("{")
        if self._peek() == (ord("}") if is_object else ord("]")):
            self._at += 1
            return False
        open_.append(byte)
        if is_object:
            self._key()
        return True

    def _closes_or_goes_on(self, open_: list[int]) -> bool:
        """After a value inside: True when this level is closed, False when a value follows."""
        byte = self._next()
        is_object = open_[-1] == ord("{")
        if byte == (ord("}") if is_object else ord("]")):
            open_.pop()
            return True
        if byte != ord(","):
            self._wrong(byte, f"after {'object key:value pair' if is_object else 'array element'}")
        if is_object:
            self._key()
        return False

    def _key(self) -> None:
        self._skip()
        byte = self._next()
        if byte != ord('"'):
            self._wrong(byte, "looking for beginning of object key string")
        self._text()
        self._skip()
        byte = self._next()
        if byte != ord(":"):
            self._wrong(byte, "after object key")

    def _text(self) -> None:
        while True:
            byte = self._next()
            if byte == ord('"'):
                return
            if byte < 0x20:
                self._wrong(byte, "in string literal")
            if byte == ord("\\"):
                self._escape()

    def _escape(self) -> None:
        byte = self._next()
        if byte == ord("u"):
            for _ in range(4):
                byte = self._next()
                if byte not in _HEX:
                    self._wrong(byte, "in \\u hexadecimal character escape")
        elif byte not in b'bfnrt\\/"':
            self._wrong(byte, "in string escape code")

    def _number(self, byte: int) -> None:
        if byte == ord("-"):
            byte = self._next()
            if byte not in b"0123456789":
                self._wrong(byte, "in numeric literal")
        if byte != ord("0"):
            self._digits()
        if self._peek_or_none() == ord("."):
            self._at += 1
            byte = self._next()
            if byte not in b"0123456789":
                self._wrong(byte, "after decimal point in numeric literal")
            self._digits()
        if self._peek_or_none() in (ord("e"), ord("E")):
            self._at += 1
            byte = self._next()
            if byte in b"+-":
                byte = self._next()
            if byte not in b"0123456789":
                self._wrong(byte, "in exponent of numeric literal")
            self._digits()

    def _digits(self) -> None:
        while self._at < len(self._body) and self._body[self._at] in b"0123456789":
            self._at += 1

    def _literal(self, word: bytes) -> None:
        for expected in word[1:]:
            byte = self._next()
            if byte != expected:
                self._wrong(byte, f"in literal {word.decode()} (expecting {chr(expected)!r})")

    def _skip(self) -> None:
        while self._at < len(self._body) and self._body[self._at] in _SPACE:
            self._at += 1

    def _peek_or_none(self) -> int | None:
        return self._body[self._at] if self._at < len(self._body) else None

    def _peek(self) -> int:
        byte = self._peek_or_none()
        if byte is None:
            raise Malformed("unexpected EOF")
        return byte

    def _next(self) -> int:
        byte = self._peek()
        self._at += 1
        return byte

    def _wrong(self, byte: int, where: str) -> NoReturn:
        raise Malformed(f"invalid character {_quoted(byte)} {where}")


def _quoted(byte: int) -> str:
    """As Go writes one character of an error."""
    if byte == ord("'"):
        return r"'\''"
    if byte == ord('"'):
        return "'\"'"
    short = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r", 92: "\\"}
    if byte in short:
        return f"'\\{short[byte]}'"
    if byte < 0x20 or byte == 0x7F:
        return f"'\\x{byte:02x}'"
    if 0x80 <= byte < 0xA1 or byte == 0xAD:
        return f"'\\u{byte:04x}'"
    return f"'{chr(byte)}'"
