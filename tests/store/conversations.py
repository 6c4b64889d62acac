"""What the templates of the families are rendered on."""

from typing import Any

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_time",
            "description": "t",
            "parameters": {
                "type": "object",
                "properties": {"tz": {"type": "string", "format": "dropped"}},
                "required": ["tz"],
            },
        },
    }
]
SHORT: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yo"},
    {"role": "user", "content": "Time?"},
]
CALL = {"function": {"name": "get_time", "arguments": {"tz": "UTC", "a": 1}}}
AFTER_A_CALL: list[dict[str, Any]] = [
    *SHORT,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "12:00", "tool_name": "get_time"},
]
CASES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "plain": (SHORT, []),
    "tools": (SHORT, TOOLS),
    "after": (AFTER_A_CALL, TOOLS),
}
