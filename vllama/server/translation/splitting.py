"""Splitting a model's plain text: what is thinking, what calls a tool, what is the answer.

For prompts that were rendered here; an engine's own chat endpoint splits by itself.
"""

import json
import re
import secrets
import string
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from vllama.server.translation.pieces import Piece
from vllama.server.translation.stops import overlap

OPEN, CLOSE = "<think>", "</think>"
_LETTERS = string.ascii_lowercase + string.digits
_TAGS = ("<tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "<function_call>", "<|tool_call|>")
# A call that begins with no tag.
BARE = "{"


class Splitter:
    """Splits one choice's text as it comes.

    `thinks` when thinking is to be set apart, `inside` when the prompt has already opened it.
    `tag` is what a tool call begins with, empty when none may come.
    """

    def __init__(
        self, *, thinks: bool, inside: bool = False, tag: str = "", tools: Collection[str] = ()
    ) -> None:
        self._stage = self._thinking if inside else self._lead if thinks else self._content
        self._tag = tag
        self._tools = frozenset(tools)
        self._held = ""
        self._count = 0
        self._is_blank = True

    def feed(self, text: str) -> Iterator[Piece]:
        """The pieces that are certain by now."""
        self._held += text
        while True:
            stage, before = self._stage, self._held
            yield from stage()
            if self._stage == stage and (self._held == before or not self._held):
                return

    def flush(self) -> Iterator[Piece]:
        """What was held, now that nothing follows."""
        held, self._held = self._held, ""
        if self._stage == self._thinking:
            yield Piece(thinking=held)
        elif held and self._stage in (self._call, self._content):
            yield Piece(held)

    def _lead(self) -> Iterator[Piece]:
        body = self._held.lstrip()
        if body.startswith(OPEN):
            self._held = body[len(OPEN) :].lstrip()
            self._stage = self._thinking
        elif body and not OPEN.startswith(body):
            self._stage = self._content
        yield from ()

    def _thinking(self) -> Iterator[Piece]:
        before, found, after = self._held.partition(CLOSE)
        if found:
            self._held = after
            self._stage = self._between
            before = before.rstrip()
        else:
            keep = overlap(before, CLOSE)
            before, self._held = before[: len(before) - keep], before[len(before) - keep :]
        if before:
            yield Piece(thinking=before)

    def _between(self) -> Iterator[Piece]:
        self._held = self._held.lstrip()
        if self._held:
            self._stage = self._content
        yield from ()

    def _content(self) -> Iterator[Piece]:
        if self._tag == BARE:
            yield from self._maybe_plain()
            return
        before, found, after = (
            self._held.partition(self._tag) if self._tag else (self._held, "", "")
        )
        if found:
            self._held = after
            self._stage = self._call
            before = before.rstrip()
        else:
            keep = overlap(before, self._tag)
            before, self._held = before[: len(before) - keep], before[len(before) - keep :]
        if before:
            yield Piece(before)

    def _maybe_plain(self) -> Iterator[Piece]:
        """A call without a tag can only be the very beginning."""
        body = self._held.lstrip()
        if self._is_blank and body.startswith(BARE):
            self._stage = self._call
        elif body or not self._is_blank:
            self._is_blank = False
            text, self._held = self._held, ""
            if text:
                yield Piece(text)

    def _call(self) -> Iterator[Piece]:
        parsed = _first_json(self._held)
        if parsed is None:
            return
        value, rest = parsed
        calls = self._calls(value)
        if not calls:
            text = self._held if self._tag == BARE else self._tag + self._held
            self._tag, self._held = "", ""
            self._stage = self._content
            yield Piece(text)
            return
        self._held = rest.lstrip()
        closing = f"</{self._tag[1:]}" if self._tag.startswith("<") else ""
        if closing and self._held.startswith(closing):
            self._held = self._held[len(closing) :].lstrip()
        self._stage = self._after_call
        yield Piece(calls=calls)

    def _after_call(self) -> Iterator[Piece]:
        body = self._held.lstrip()
        closing = f"</{self._tag[1:]}" if self._tag.startswith("<") else ""
        if closing and body.startswith(closing):
            self._held = body[len(closing) :].lstrip()
        elif body and not (closing and closing.startswith(body)):
            self._held = body
            self._is_blank = True
            self._stage = self._content
        yield from ()

    def _calls(self, value: Any) -> list[dict[str, Any]]:
        found = []
        for each in value if isinstance(value, list) else [value]:
            if not isinstance(each, dict):
                return []
            name = each.get("name")
            arguments = each.get("arguments", each.get("parameters"))
            if isinstance(arguments, str):
                arguments = _object(arguments)
            if not isinstance(name, str) or not isinstance(arguments, dict):
                return []
            if self._tools and name not in self._tools:
                return []
            function = {"index": self._count, "name": name, "arguments": arguments}
            self._count += 1
            found.append({"id": call_id(), "function": function})
        return found


def call_id() -> str:
    """A new tool call's name."""
    return "call_" + "".join(secrets.choice(_LETTERS) for _ in range(8))


def tag_of(template: str) -> str:
    """What a tool call begins with, to judge by the model's template."""
    for tag in _TAGS:
        if tag in template:
            return tag
    return BARE


def opens_thinking(prompt: str) -> bool:
    """Whether the prompt ends inside thinking."""
    return prompt.rstrip().endswith(OPEN)


def names_of(tools: Sequence[Mapping[str, Any]]) -> list[str]:
    """The tools' names."""
    return [str((tool.get("function") or {}).get("name", "")) for tool in tools]


def _first_json(text: str) -> tuple[Any, str] | None:
    start = re.search(r"[{\[]", text)
    if start is None:
        return None
    try:
        value, end = json.JSONDecoder().raw_decode(text, start.start())
    except (ValueError, RecursionError):
        return None
    return value, text[end:]


def _object(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
