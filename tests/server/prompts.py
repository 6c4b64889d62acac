"""Models that differ in their chat templates only, and what is said to them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.store.conversations import AFTER_A_CALL, SHORT
from vllama.server.lifecycle.runner import Lease
from vllama.server.translation import dialects
from vllama.server.translation.ask import Ask
from vllama.server.translation.options import DEFAULTS
from vllama.store import convert
from vllama.store.card import Card

TEMPLATES = Path(__file__).parent.parent / "store" / "chat_templates"
FAMILIES = sorted(path.stem for path in TEMPLATES.glob("*.jinja"))
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "get_time", "description": "a < b & c's “time”",
     "parameters": {"type": "object", "required": ["tz"], "properties": {
         "tz": {"type": "string", "enum": ["UTC", "CET"]}}}}},
]  # fmt: skip
# What many clients leave out.
BARE: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "get_time"}},
    {"type": "function", "function": {"name": "add", "description": "Add.",
     "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}}}},
]  # fmt: skip
# Two calls at once; their answers come in the other order, and name neither by its id.
TWO_CALLS: list[dict[str, Any]] = [
    *SHORT,
    {"role": "assistant", "content": "", "tool_calls": [
        {"function": {"name": "get_time", "arguments": {"tz": "CET"}}},
        {"function": {"name": "add", "arguments": {"n": 2, "note": "é<>&"}}},
    ]},
    {"role": "tool", "content": "3", "tool_name": "add"},
    {"role": "tool", "content": "12:00", "tool_name": "get_time"},
]  # fmt: skip
CASES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]], bool | None]] = {
    "plain": (SHORT, [], None),
    "tools": (SHORT, TOOLS, None),
    "bare": (SHORT, BARE, None),
    "after": (AFTER_A_CALL, TOOLS, None),
    "two": (TWO_CALLS, BARE, None),
    "thinking": (SHORT, [], True),
    "silent": (SHORT, TOOLS, False),
}
# What a family's template has no form for, or refuses.
_LACKS = {"gemma": ("tools", "bare", "after", "two", "silent"), "llama3": ("two",)}
SPOKEN = [
    (family, case) for family in FAMILIES for case in CASES if case not in _LACKS.get(family, ())
]


def speaker(toy: Path, family: str, folder: Path, *, gguf: bool) -> Path:
    """The toy with this family's template, and with a token that texts begin with.

    As a folder of safetensors, or as the GGUF file made of it alone.
    """
    shutil.copytree(toy, folder, ignore=shutil.ignore_patterns("*.gguf"))
    (folder / "chat_template.jinja").write_text((TEMPLATES / f"{family}.jinja").read_text())
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings |= {"bos_token": settings["pad_token"], "add_bos_token": False}
    settings.pop("chat_template")
    path.write_text(json.dumps(settings))
    if not gguf:
        return folder
    for _ in convert.write(folder, folder.with_suffix(".gguf")):
        pass
    shutil.rmtree(folder)
    return folder.with_suffix(".gguf")


def asked(lease: Lease, card: Card, case: str) -> dict[str, Any]:
    """What an engine is told that renders the case itself."""
    messages, tools, think = CASES[case]
    ask = Ask("m", "m", card, DEFAULTS, tuple(messages), tools=tuple(tools), think=think)
    return dialects.chat_body(replace(ask, stream=False), lease, 0)


def of_the_library(folder: Path, body: dict[str, Any]) -> str:
    """The prompt that `transformers` makes of such a request."""
    from transformers import AutoTokenizer

    messages = json.loads(json.dumps(body["messages"]))
    for call in (c for m in messages for c in m.get("tool_calls") or ()):
        call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    text = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        messages, tools=body.get("tools"), tokenize=False, add_generation_prompt=True,
        **body.get("chat_template_kwargs", {}),
    )  # fmt: skip
    assert isinstance(text, str)
    return text
