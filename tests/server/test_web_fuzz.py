"""Every route of the served OpenAPI page, fuzzed: no 5xx but those that Ollama gives itself."""

import json
import random
import re
from typing import Any

import pytest

from tests.server.house import House

pytestmark = pytest.mark.llamacpp
ROUNDS = 25
MODELS = ["m", "t", "e", "f", "M:latest", "nope", "a b", "", "bad//name", None, 5]
# Nothing may be fetched from elsewhere.
NOWHERE = ["127.0.0.1:9/library/nope", "127.0.0.1:9/nope", "a b", "", 5]
SCALARS: list[Any] = [None, True, -1, 0, 2, 2.5, 10**30, "", "x", "5m", "json", [], {}, ["x"], [1]]
LIMITS = {"options": {"num_predict": 2}, "max_tokens": 2, "max_output_tokens": 2}
MEANT = re.compile(
    r'^(option "|invalid format|template: |account unavailable|pull model manifest|open '
    r"|This server does not support embeddings|unsupported quantization|json: cannot unmarshal"
    r"|quantization is only supported|invalid digest format|couldn't retrieve manifest)"
)


def operations(page: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    found = []
    for path, methods in page["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            found.append((method, path, content.get("application/json", {}).get("schema", {})))
    return found


def made(schema: dict[str, Any], dice: random.Random, depth: int = 0) -> Any:
    """Something that often fits the schema."""
    if dice.random() < 0.12 or depth > 5:
        return dice.choice(SCALARS)
    kind = schema.get("type")
    if kind == "object":
        fields = {
            name: made(each, dice, depth + 1)
            for name, each in schema.get("properties", {}).items()
            if dice.random() < 0.5
        }
        return fields or dice.choice([{}, {"x": 1}])
    if kind == "array":
        return [made(schema.get("items", {}), dice, depth + 1) for _ in range(dice.randrange(3))]
    if kind == "string":
        return dice.choice(
            ["", "hello", "user", "tool", "system", "\u00e9\ud83d\ude00", "{{ .Prompt"]
        )
    if kind in ("integer", "number"):
        return dice.choice([-1, 0, 1, 2, 0.5, 20, 21])
    if kind == "boolean":
        return dice.choice([True, False])
    return dice.choice(SCALARS)


def body_for(path: str, schema: dict[str, Any], dice: random.Random) -> Any:
    body = made(schema, dice)
    if not isinstance(body, dict):
        return body
    remote = path in ("/api/pull", "/api/push", "/api/create")
    for name in ("model", "name"):
        if name in schema.get("properties", {}):
            body[name] = dice.choice(NOWHERE if remote else MODELS)
    if remote and "from" in body:
        body["from"] = dice.choice([*NOWHERE, "m", "e"])
    for name, value in LIMITS.items():
        if name in schema.get("properties", {}) and dice.random() < 0.95:
            body[name] = value
    return body


def is_meant(text: str) -> bool:
    try:
        error = json.loads(text).get("error", "")
    except ValueError:
        return False
    if isinstance(error, dict):
        error = error.get("message", "")
    return bool(MEANT.match(error))


@pytest.mark.parametrize("seed", [7])
async def test_no_route_falls_over_whatever_it_is_sent(ollama_like: House, seed: int) -> None:
    page = (await ollama_like.get("/openapi.json")).json()
    known = operations(page)
    assert {"/api/chat", "/v1/messages", "/api/show"} <= {path for _, path, _ in known}
    dice = random.Random(seed)
    fallen = []
    async with ollama_like.client() as client:
        for method, path, schema in known:
            # The models of the other tests stay.
            if path == "/api/delete":
                continue
            url = re.sub(r"\{.*?\}", "nope", path)
            for _ in range(ROUNDS if schema else 1):
                body = json.dumps(body_for(path, schema, dice)).encode()
                if dice.random() < 0.05:
                    body = body[: dice.randrange(len(body))]
                response = await client.request(method, url, content=body if schema else None)
                if response.status_code >= 500 and not is_meant(response.text):
                    fallen.append(f"{method} {path} {body[:300]!r}: {response.text[:200]}")
    assert not fallen, "\n".join(fallen)
