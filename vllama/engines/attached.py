"""Attached: an engine that somebody else runs. Nothing is started, nothing is stopped."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from vllama.engines import probe
from vllama.engines.engine import Api, Endpoint, Immortal
from vllama.errors import EngineFailed, UsageError
from vllama.machine import Machine
from vllama.model import Model
from vllama.profile import Profile


class Attached:
    """A server at `url`. What is not given, its API and the model's name, is asked of it."""

    name = "attached"

    def __init__(self, url: str, model: str = "", api: Api | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"'{url}' is no URL", "Write it like http://127.0.0.1:8000.")
        self.url = url.rstrip("/").removesuffix("/v1").rstrip("/")
        self._model = model
        self._api = api

    def version(self) -> str:
        """Unknown until it is asked."""
        return ""

    def accepts(self) -> frozenset[str]:
        """Nothing: it runs already."""
        return frozenset()

    def default(self, model: Model, machine: Machine) -> Profile:  # noqa: ARG002 - the seam's form
        """A profile that says only where it is."""
        return self.profile(model.name)

    def profile(self, model: str = "") -> Profile:
        """The profile to start this with; `model` as a user calls it."""
        return Profile("attached", self.name, model or self._model or self.url)

    @asynccontextmanager
    async def start(self, profile: Profile) -> AsyncIterator[Endpoint]:  # noqa: ARG002
        """See that it is there and what it is; leave it alone on leaving."""
        if not await probe.is_listening(self.url):
            raise EngineFailed(
                f"nobody listens at {self.url}", "Start the server there, or correct the URL."
            )
        found = await look(self.url)
        api = self._api or _preferred(found)
        models = found.get(api)
        if models is None:
            raise EngineFailed(
                f"{self.url} does not speak the {'Ollama' if api == 'ollama' else 'OpenAI'} API",
                "See that the URL is that of an inference server.",
                kind="crash",
            )
        yield Endpoint(
            self.url,
            _matching(self._model, models, self.url),
            self.name,
            Immortal(),
            api=api,
            version=await self._its_version(api),
            facts={"engine": await self._its_kind(api)},
        )

    async def _its_version(self, api: Api) -> str:
        path = "/api/version" if api == "ollama" else "/version"
        return str((await probe.ask_json(self.url, path)).get("version", ""))

    async def _its_kind(self, api: Api) -> str:
        """Which engine it is, as far as it shows."""
        if api == "ollama":
            return "ollama"
        listed = await probe.ask_json(self.url, "/v1/models")
        owner = str(_first(listed.get("data")).get("owned_by", ""))
        return owner if owner in {"vllm", "llamacpp"} else "openai"


async def look(url: str) -> dict[Api, list[str]]:
    """The APIs that the server speaks, each with the names of its models."""
    found: dict[Api, list[str]] = {}
    listed = await probe.ask_json(url, "/v1/models")
    if isinstance(listed.get("data"), list):
        found["openai"] = [str(m["id"]) for m in listed["data"] if "id" in m]
    # llama.cpp answers /api/tags too, but not the rest of Ollama's API.
    version = await probe.ask_json(url, "/api/version")
    tags = await probe.ask_json(url, "/api/tags") if version else {}
    if isinstance(tags.get("models"), list):
        found["ollama"] = [str(m.get("model") or m.get("name")) for m in tags["models"]]
    return found


def _preferred(found: dict[Api, list[str]]) -> Api:
    """Ollama speaks both; its own API is the one that reports times and honours options.

    It has one list of models for both APIs. Where the names differ, Ollama's API is the
    guise of another server, which knows its models by the names of OpenAI's.
    """
    ollama = found.get("ollama")
    is_one_list = ollama is not None and set(ollama) <= set(found.get("openai", ollama))
    return "ollama" if is_one_list else "openai"


def _matching(wanted: str, models: list[str], url: str) -> str:
    """The name that requests must use.

    A server that lists nothing is taken at the user's word.
    """
    if not wanted:
        if models:
            return models[0]
        raise EngineFailed(f"{url} has no model", "Load one there, or name it.", kind="bad_model")
    for name in models:
        if name == wanted or name.removesuffix(":latest") == wanted.removesuffix(":latest"):
            return name
    if models:
        raise EngineFailed(
            f"{url} has no model '{wanted}'", f"It has: {', '.join(models[:8])}.", kind="bad_model"
        )
    return wanted


def _first(items: Any) -> dict[str, Any]:
    return items[0] if isinstance(items, list) and items and isinstance(items[0], dict) else {}
