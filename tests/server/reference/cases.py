"""The numbered black-box cases of Ollama's API, and the world in which they are tried."""

import json
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import httpx

from tests.server.house import House
from vllama.settings import Settings

M, T, F, E, NX = "m", "t", "f", "e", "NX"
SIM = "sim"
"""The simulator with scripted tool calls and thinking."""
USER = [{"role": "user", "content": "hi"}]
FEW = {"temperature": 0, "seed": 1, "num_predict": 5}
JSON = "application/json; charset=utf-8"
BODIES = [
    ("POST", f"/api/{name}")
    for name in (
        "generate", "chat", "embed", "embeddings", "show", "pull", "push", "create", "copy",
    )
] + [("DELETE", "/api/delete")]  # fmt: skip


@dataclass(frozen=True)
class World:
    """`house` has real models on llama.cpp; `sim` is the same application before a simulator."""

    house: House
    sim: House
    settings: Settings
    folder: Path

    async def request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        async with self.house.client() as client:
            return await client.request(method, path, **kwargs)

    async def post(self, path: str, **body: Any) -> httpx.Response:
        return await self.house.post(path, body)

    async def ask(self, route: str, **body: Any) -> dict[str, Any]:
        """A native answer that must succeed, as one object."""
        response = await self.post(f"/api/{route}", **{"stream": False, **body})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def refuses(self, status: int, error: str, path: str, **body: Any) -> None:
        """A native error in its exact words."""
        response = await self.post(path, **body)
        assert (response.status_code, response.json()) == (status, {"error": error})

    async def running(self) -> dict[str, Any]:
        models = (await self.request("GET", "/api/ps")).json()["models"]
        return {each["name"]: each for each in models}


Case: TypeAlias = Callable[[World], Awaitable[None]]
CASES: dict[int, Case] = {}


def case(number: int) -> Callable[[Case], Case]:
    """This is how the case of that number is tried."""

    def keep(tried: Case) -> Case:
        assert number not in CASES, number
        CASES[number] = tried
        return tried

    return keep


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def events(response: httpx.Response) -> list[Any]:
    found: list[Any] = []
    for line in response.text.splitlines():
        if line.startswith("data: "):
            data = line.removeprefix("data: ")
            found.append(data if data == "[DONE]" else json.loads(data))
    return found


def length(vector: list[float]) -> float:
    return math.sqrt(sum(x * x for x in vector))
