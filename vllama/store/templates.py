"""From messages to the prompt's text, by a model's own template: Jinja, or one of Ollama's."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from vllama.store import chat_template, gotemplate, jinja
from vllama.store.card import Card
from vllama.store.gotemplate import Record, Records, Template
from vllama.store.gotemplate.values import Document

Message = Mapping[str, Any]
Think = bool | str | None


def render(
    card: Card,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] = (),
    think: Think = None,
    *,
    template: str | None = None,
    today: date | None = None,
) -> str:
    """The prompt for these messages (of `/api/chat`'s form), ready for the model's answer.

    `template` stands in for the card's own. The card's system text and messages are not
    added here: see `conversation`.

    Raises:
        TemplateError: the template is wrong, or does not fit the messages.
    """
    text = card.template if template is None else template
    kind = card.template_kind if template is None else chat_template.kind(text)
    if kind == "jinja":
        return jinja.render(text, messages, tools, think, jinja.tokens(card.model))
    level = think if isinstance(think, str) else "medium" if think else ""
    values = {"Think": bool(think), "ThinkLevel": level, "IsThinkSet": think is not None}
    return _go(compiled(text), messages, tools, values, today)


def infill(card: Card, prompt: str, suffix: str, *, template: str | None = None) -> str:
    """The prompt for what belongs between `prompt` and `suffix`."""
    parsed = compiled(card.template if template is None else template)
    return gotemplate.execute(parsed, {"Prompt": prompt, "Suffix": suffix, "Response": ""})


def conversation(
    card: Card, messages: Sequence[Message], system: str | None = None
) -> list[Message]:
    """The messages as the model is to see them: the card's own come first, with its system text.

    The card's system text yields to `system`, and to a system message that comes first.
    """
    whole = [*card.messages, *messages]
    text = card.system if system is None else system
    has_system = bool(whole) and whole[0].get("role") == "system"
    return whole if has_system or not text else [{"role": "system", "content": text}, *whole]


def compiled(text: str) -> Template:
    """A Go template, with `{{ .Response }}` behind it where it has no place for an answer.

    Raises:
        TemplateError: with Go's text, such as `template: :1: unclosed action`.
    """
    parsed = gotemplate.parse(text)
    if {"Messages", "Response"} & parsed.fields:
        return parsed
    return gotemplate.parse(text + "{{ .Response }}")


def _go(
    template: Template,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    values: dict[str, Any],
    today: date | None,
) -> str:
    system, merged = _collated(messages)
    if "Messages" not in template.fields:
        return _turn_by_turn(template, merged, values, today)
    listed = [_tool(tool) for tool in tools]
    data = {
        **values,
        "System": system,
        "Messages": [_message(m) for m in merged],
        "Tools": Records(listed) if listed else None,
        "Response": "",
    }
    return gotemplate.execute(template, data, today)


def _turn_by_turn(
    template: Template, messages: Sequence[Message], values: dict[str, Any], today: date | None
) -> str:
    """For templates of one turn (`.System`, `.Prompt`, `.Response`): once for each turn."""
    done: list[str] = []
    turn = {"System": "", "Prompt": "", "Response": ""}

    def finish() -> None:
        done.append(gotemplate.execute(template, {**values, **turn}, today))
        turn.update(System="", Prompt="", Response="")

    for message in messages:
        content = message["content"]
        if message["role"] == "system":
            if turn["Prompt"] or turn["Response"]:
                finish()
            turn["System"] = content
        elif message["role"] == "user":
            if turn["Response"]:
                finish()
            turn["Prompt"] = content
        elif message["role"] == "assistant":
            turn["Response"] = content
    last = gotemplate.execute(template.up_to("Response"), {**values, **turn}, today)
    return "".join([*done, last])


def _collated(messages: Sequence[Message]) -> tuple[str, list[dict[str, Any]]]:
    """All system texts in one, and neighbours of one role merged, but for tools' answers."""
    merged: list[dict[str, Any]] = []
    systems, images = [], 0
    for message in messages:
        role = str(message.get("role", "")).lower()
        content, images = _with_images(message, images)
        if role == "system":
            systems.append(content)
        if merged and merged[-1]["role"] == role != "tool":
            merged[-1]["content"] += "\n\n" + content
        else:
            merged.append({**message, "role": role, "content": content})
    return "\n\n".join(systems), merged


def _with_images(message: Message, count: int) -> tuple[str, int]:
    """The content with a mark for each image, in the place that `[img]` keeps or in front."""
    content = str(message.get("content") or "")
    front = ""
    for _ in message.get("images") or ():
        mark = f"[img-{count}]"
        count += 1
        if "[img]" in content:
            content = content.replace("[img]", mark, 1)
        else:
            front += mark
    return front + content, count


def _message(message: Message) -> Record:
    calls = [_call(c, i) for i, c in enumerate(message.get("tool_calls") or ())]
    return Record(
        {
            "Role": message["role"],
            "Content": message["content"],
            "Thinking": message.get("thinking") or "",
            "Images": message.get("images") or [],
            "ToolCalls": calls,
            "ToolName": message.get("tool_name") or "",
            "ToolCallID": message.get("tool_call_id") or "",
        },
        kind="api.Message",
    )


def _call(call: Mapping[str, Any], index: int) -> Record:
    function = call.get("function") or {}
    arguments = Document(function.get("arguments") or {})
    wire = {"name": function.get("name", ""), "arguments": arguments}
    fields = {"Name": wire["name"], "Arguments": arguments, "Index": function.get("index", index)}
    return Record(
        {"ID": call.get("id") or "", "Function": Record(fields, wire)}, {"function": wire}
    )


def _tool(tool: Mapping[str, Any]) -> Record:
    """A tool with the fields that Ollama knows, in its order; as text it is its JSON."""
    function = tool.get("function") or {}
    schema = _known(function.get("parameters") or {}, ("type", "$defs", "items", "required"))
    given = (function.get("parameters") or {}).get("properties") or {}
    properties = {k: _known(v, _PROPERTY) for k, v in given.items()}
    parameters = {"type": "", **schema, "properties": properties}
    told = {"name": "", **_known(function, ("name", "description")), "parameters": parameters}
    wire = {"type": "", **_known(tool, ("type", "items")), "function": told}
    fields = {
        "Name": told["name"],
        "Description": told.get("description", ""),
        "Parameters": Record(
            {
                "Type": parameters["type"],
                "Defs": parameters.get("$defs"),
                "Items": parameters.get("items"),
                "Required": parameters.get("required") or [],
                "Properties": {k: _property(p) for k, p in properties.items()},
            },
            parameters,
            "api.ToolFunctionParameters",
        ),
    }
    return Record(
        {"Type": wire["type"], "Function": Record(fields, told, "api.ToolFunction")},
        wire,
        "api.Tool",
    )


_PROPERTY = ("anyOf", "type", "items", "description", "enum", "properties", "required")


def _property(schema: Mapping[str, Any]) -> Record:
    kind = schema.get("type") or ""
    fields = {
        "AnyOf": schema.get("anyOf") or [],
        "Type": [kind] if isinstance(kind, str) and kind else kind or [],
        "Items": schema.get("items"),
        "Description": schema.get("description") or "",
        "Enum": schema.get("enum") or [],
        "Properties": schema.get("properties") or {},
        "Required": schema.get("required") or [],
    }
    return Record(fields, schema, "api.ToolProperty")


def _known(document: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """What a document says of these keys, in their order; empty texts are left out, as in Go."""
    return {k: document[k] for k in keys if document.get(k) not in (None, "")}
