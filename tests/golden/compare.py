"""How an answer is held against a recorded one: status, headers, keys and types, error texts."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

RECORDINGS = Path(__file__).parent / "recordings"
HEADERS = (
    "content-type",
    "allow",
    "location",
    "vary",
    "cache-control",
    "access-control-allow-origin",
    "access-control-allow-methods",
    "access-control-max-age",
)
# Texts that name a folder of the machine that they were recorded on.
_FOLDER = re.compile(r"(open |FROM )\S*/blobs/")


@dataclass(frozen=True)
class Recording:
    """One request and what Ollama answered."""

    name: str
    request: dict[str, Any]
    response: dict[str, Any]


def recordings(folder: Path = RECORDINGS) -> list[Recording]:
    """All of them, in the order in which they were made."""
    found = []
    for path in sorted(folder.glob("*.json")):
        document = json.loads(path.read_text())
        found.append(Recording(path.stem, document["request"], document["response"]))
    return found


async def replay(recording: Recording, client: httpx.AsyncClient) -> httpx.Response:
    """Ask again what was asked."""
    asked = recording.request
    content = None
    if "body_raw" in asked:
        raw = asked["body_raw"]
        content = raw.encode() if isinstance(raw, str) else bytes_of(raw)
    elif "body" in asked:
        content = json.dumps(asked["body"]).encode()
    request = client.build_request(
        asked["method"], asked["path"], headers=asked["headers"], content=content
    )
    return await client.send(request, follow_redirects=False)


def bytes_of(raw: dict[str, str]) -> bytes:
    """A body that is no text."""
    import base64

    return base64.b64decode(raw["base64"])


def differences(recording: Recording, response: httpx.Response) -> list[str]:
    """Everything in which the answer is not like the recorded one."""
    told = recording.response
    found = []
    if response.status_code != told["status"]:
        found.append(
            f"status {response.status_code}, recorded {told['status']}: {response.text[:200]}"
        )
        return found
    expected = {name.lower(): value for name, value in told["headers"].items()}
    for name in HEADERS:
        ours = response.headers.get(name)
        if ours != expected.get(name):
            found.append(f"header {name}: {ours!r}, recorded {expected.get(name)!r}")
    kind = told["body_kind"]
    if kind == "empty":
        if response.content:
            found.append(f"a body where none was: {response.content[:80]!r}")
    elif kind == "text":
        if response.text != told["body"]:
            found.append(f"text {response.text!r}, recorded {told['body']!r}")
    else:
        found += _unlike(parsed(response.text, kind), told["body"], kind)
    return found


def parsed(text: str, kind: str) -> Any:
    """A body as the recordings hold it."""
    if kind == "json":
        return json.loads(text)
    if kind == "ndjson":
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    events = []
    for block in text.split("\n\n"):
        event: dict[str, Any] = {}
        for line in block.splitlines():
            name, _, value = line.partition(": ")
            event[name] = value
        if event:
            if event.get("data", "").startswith("{"):
                event["data"] = json.loads(event["data"])
            events.append(event)
    return events


def _unlike(ours: Any, recorded: Any, kind: str) -> list[str]:
    if kind == "json":
        found = [f"shape at {line}" for line in unlike_shapes(ours, recorded, "")]
        return found + _unlike_errors(ours, recorded)
    first, second = _steps(ours), _steps(recorded)
    found = []
    if first != second:
        found.append(f"events {json.dumps(first)[:600]}, recorded {json.dumps(second)[:600]}")
    for mine, theirs in zip(ours[-1:], recorded[-1:], strict=True):
        found += _unlike_errors(mine, theirs)
    return found


def _unlike_errors(ours: Any, recorded: Any) -> list[str]:
    if not isinstance(recorded, dict) or "error" not in recorded or recorded["error"] is None:
        return []
    mine, theirs = (json.dumps(each.get("error")) for each in (ours, recorded))
    if _FOLDER.sub(r"\1", mine) == _FOLDER.sub(r"\1", theirs):
        return []
    return [f"error {mine}, recorded {theirs}"]


def unlike_shapes(ours: Any, recorded: Any, path: str) -> list[str]:
    """Where keys or types differ."""
    if type_of(ours) != type_of(recorded):
        return [f"{path or '/'}: {type_of(ours)}, recorded {type_of(recorded)}"]
    if isinstance(recorded, dict):
        found = []
        for key in sorted(set(ours) | set(recorded)):
            if key not in ours:
                found.append(f"{path}/{key}: missing")
            elif key not in recorded:
                found.append(f"{path}/{key}: too much")
            else:
                found += unlike_shapes(ours[key], recorded[key], f"{path}/{key}")
        return found
    if isinstance(recorded, list) and recorded and ours:
        return unlike_shapes(ours[0], recorded[0], f"{path}/0")
    return []


def type_of(value: Any) -> str:
    """What JSON calls it."""
    if value is None or isinstance(value, bool | str):
        return type(value).__name__
    if isinstance(value, int | float):
        return "number"
    return "array" if isinstance(value, list) else "object"


def _steps(events: list[Any]) -> list[Any]:
    """The shapes of a stream's events, each run of equal ones once."""
    found: list[Any] = []
    for event in events:
        shape = shape_of(event)
        if not found or found[-1] != shape:
            found.append(shape)
    return found


def shape_of(value: Any) -> Any:
    """A value's keys and types."""
    if isinstance(value, dict):
        return {key: shape_of(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [shape_of(value[0])] if value else []
    return type_of(value)
