"""`tool_choice`, for prompts that are rendered here: an engine's chat endpoint heeds it itself."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vllama.server.translation.ask import Ask

_ANY = {"type": "object"}
REQUIRED = "required"


def heeded(ask: Ask) -> Ask:
    """The ask as its `tool_choice` has it, which is left as `required` or as None.

    `none` takes the tools away; `required` and a tool's name let nothing be written but a call.
    """
    choice = ask.tool_choice
    if not ask.tools or choice is None:
        return ask
    if choice == "none":
        return replace(ask, tools=(), tool_choice=None)
    tools = ask.tools if choice == REQUIRED else named(ask)
    if not tools:
        return replace(ask, tool_choice=None)
    # Thinking would not be a call.
    return replace(ask, format=_schema(tools), think=False, tool_choice=REQUIRED)


def named(ask: Ask) -> tuple[Mapping[str, Any], ...]:
    """The tool that the choice is for, by its name; empty when it names none of them."""
    choice = ask.tool_choice
    wanted = _function(choice).get("name") if isinstance(choice, Mapping) else None
    return tuple(t for t in ask.tools if wanted and _function(t).get("name") == wanted)


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function = tool.get("function")
    return function if isinstance(function, Mapping) else {}


def _schema(tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The schema of a call of one of them, in the form that most templates teach."""
    calls, shared = [], dict[str, Any]()
    for tool in tools:
        function = _function(tool)
        arguments = dict(function.get("parameters") or _ANY)
        if arguments.get("properties"):
            arguments.setdefault("additionalProperties", False)
        # References start at the root.
        shared |= arguments.pop("$defs", {})
        fields = {"name": {"const": function.get("name", "")}, "arguments": arguments}
        calls.append(
            {
                "type": "object",
                "properties": fields,
                "required": list(fields),
                "additionalProperties": False,
            }
        )
    schema: dict[str, Any] = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return {**schema, "$defs": shared} if shared else schema
