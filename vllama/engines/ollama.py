"""Ollama as an engine, to compare with: the one that runs, else one started for the purpose."""

import re
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

from vllama.engines import install, probe, process
from vllama.engines.engine import Endpoint, Fact, Immortal, Life
from vllama.errors import EngineFailed, EngineMissing
from vllama.machine import Machine
from vllama.model import Model
from vllama.profile import Profile, Scalar
from vllama.settings import Settings

ASK_S = 2.0
# What `ollama serve` takes from its environment, as options of a profile.
OPTIONS: Mapping[str, str] = {
    "num_parallel": "OLLAMA_NUM_PARALLEL",
    "context_length": "OLLAMA_CONTEXT_LENGTH",
    "flash_attention": "OLLAMA_FLASH_ATTENTION",
    "kv_cache_type": "OLLAMA_KV_CACHE_TYPE",
    "max_loaded_models": "OLLAMA_MAX_LOADED_MODELS",
    "gpu_overhead": "OLLAMA_GPU_OVERHEAD",
    "sched_spread": "OLLAMA_SCHED_SPREAD",
}


def from_settings(settings: Settings) -> "Ollama":
    """The Ollama at `OLLAMA_HOST`, or the program on the PATH."""
    return Ollama(settings)


class Ollama:
    """An Ollama. One that runs is used as it is, and left as it was found."""

    name = "ollama"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._url = settings.address.url

    def version(self) -> str:
        """Of the one that runs, else of the program."""
        try:
            with httpx.Client(trust_env=False, verify=False, timeout=ASK_S) as client:
                return str(client.get(f"{self._url}/api/version").json()["version"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            pass
        done = subprocess.run([self._program(), "--version"], capture_output=True, text=True)
        found = re.search(r"(\d+\.\d+\S*)", done.stdout + done.stderr)
        return found[1] if found else "unknown"

    def accepts(self) -> frozenset[str]:
        """What `ollama serve` reads from its environment."""
        return frozenset(OPTIONS)

    def default(self, model: Model, machine: Machine) -> Profile:
        """Nothing set: as its users have it."""
        return Profile("default", self.name, model.name, machine=machine.fingerprint)

    @asynccontextmanager
    async def start(self, profile: Profile) -> AsyncIterator[Endpoint]:
        """Use the one that runs; with options, or when none runs, start one beside it."""
        began = time.monotonic()
        running = await probe.ask_json(self._url, "/api/version")
        if running and not profile.options:
            async with self._loaded(self._url, profile, Immortal(), began) as endpoint:
                yield endpoint
            return
        port = process.free_port()
        url = f"http://127.0.0.1:{port}"
        own = {"OLLAMA_HOST": f"127.0.0.1:{port}", **environment(profile.options)}
        async with process.launch(
            [self._program(), "serve"], name=self.name, explain=explain,
            environment={**self._settings.environment, **own, **profile.environment},
        ) as child:  # fmt: skip
            await process.wait_ready(
                child, lambda: _answers(url), stall_s=self._settings.load_timeout_s, what="Ollama"
            )
            async with self._loaded(url, profile, child, began) as endpoint:
                yield endpoint

    @asynccontextmanager
    async def _loaded(
        self, url: str, profile: Profile, life: Life, began: float
    ) -> AsyncIterator[Endpoint]:
        """With the model in memory; it goes again unless it was there before."""
        was_loaded = await _context_length(url, profile.model)
        answer = await self._generate(url, profile.model, {})
        facts: dict[str, Fact] = {"load_s": answer.get("load_duration", 0) / 1e9}
        if length := await _context_length(url, profile.model):
            facts["n_ctx_slot"] = length
        version = str((await probe.ask_json(url, "/api/version")).get("version", ""))
        try:
            yield Endpoint(
                url, profile.model, self.name, life, api="ollama", version=version,
                start_s=time.monotonic() - began, facts=facts,
            )  # fmt: skip
        finally:
            if not was_loaded:
                await _unload(url, profile.model)

    async def _generate(self, url: str, model: str, rest: Mapping[str, Any]) -> dict[str, Any]:
        """A request without a prompt: it loads the model."""
        body = {"model": model, "stream": False, **rest}
        timeout_s = self._settings.load_timeout_s
        try:
            async with httpx.AsyncClient(trust_env=False, verify=False, timeout=timeout_s) as c:
                response = await c.post(f"{url}/api/generate", json=body)
                document = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise EngineFailed(
                f"Ollama did not load {model}: {error!r}", kind="hang", phase="load"
            ) from error
        if response.status_code != 200:
            raise _refusal(response.status_code, str(document.get("error", "")), model)
        return dict(document)

    def _program(self) -> str:
        program = shutil.which("ollama", path=self._settings.environment.get("PATH", ""))
        if program is None:
            raise EngineMissing(
                f"Ollama is not installed, and none runs at {self._url}", install.hint("ollama")
            )
        return program


def environment(options: Mapping[str, Scalar]) -> dict[str, str]:
    """The options as `ollama serve` reads them.

    Raises:
        EngineFailed: of kind `bad_option`.
    """
    made = {}
    for name, value in options.items():
        if name not in OPTIONS:
            raise EngineFailed(
                f"Ollama has no option '{name}'", f"There are: {', '.join(OPTIONS)}.",
                kind="bad_option", phase="parse",
            )  # fmt: skip
        made[OPTIONS[name]] = str(int(value)) if isinstance(value, bool) else str(value)
    return made


def explain(log: Sequence[str]) -> EngineFailed:
    """From the last words of `ollama serve` to a cause."""
    text = "\n".join(log)
    if "address already in use" in text:
        return EngineFailed("Ollama's port is taken", "Start it again.", kind="port", log=log)
    if "out of memory" in text or "killed by SIGKILL" in text:
        return EngineFailed(
            "Ollama ran out of memory", "Take a smaller model.", kind="out_of_memory", log=log
        )
    last = process.last_words(log)
    return EngineFailed(f"Ollama ended: {last}", "Its log says more: --verbose.", log=log)


def _refusal(status: int, error: str, model: str) -> EngineFailed:
    if status == 404:
        return EngineFailed(
            f"Ollama has no model '{model}'", f"Get it: ollama pull {model}",
            kind="bad_model", phase="load",
        )  # fmt: skip
    is_memory = re.search(r"more (system )?memory|out of memory", error)
    kind = "out_of_memory" if is_memory else "bad_model"
    remedy = "Take a smaller model or context." if is_memory else "Its own log says more."
    return EngineFailed(
        f"Ollama could not load {model}: {error or status}", remedy, kind=kind, phase="load"
    )


async def _answers(url: str) -> bool:
    return await probe.is_listening(url) and bool(await probe.ask_json(url, "/api/version"))


async def _context_length(url: str, model: str) -> int:
    """Of the model if it is loaded, else 0; older Ollamas do not say: 1."""
    for one in (await probe.ask_json(url, "/api/ps")).get("models") or []:
        if str(one.get("name", "")).removesuffix(":latest") == model.removesuffix(":latest"):
            return int(one.get("context_length") or 1)
    return 0


async def _unload(url: str, model: str) -> None:
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=ASK_S) as client:
        try:
            await client.post(f"{url}/api/generate", json={"model": model, "keep_alive": 0})
        except httpx.HTTPError:
            pass  # it has gone already, and the model with it
