"""vLLM as an engine: a child process that serves a model in Hugging Face's layout."""

import asyncio
import logging
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vllama.engines import (
    metal,
    orphans,
    probe,
    process,
    sleep,
    vllm_command,
    vllm_default,
    vllm_installed,
    vllm_live,
    vllm_sleep,
)
from vllama.engines.engine import Endpoint, Fact
from vllama.engines.vllm_command import Served
from vllama.engines.vllm_installed import Installed
from vllama.engines.vllm_log import PATIENCE, Story, explain, is_fatal
from vllama.errors import EngineFailed, UsageError
from vllama.machine import Machine
from vllama.model import Model
from vllama.profile import Profile
from vllama.settings import Settings
from vllama.store import catalogue, names

NAME = "vllm"
LOG = logging.getLogger("vllama.engines.vllm")
# A dead engine core takes its server along after five seconds; its last lines come at once.
LAST_WORDS_S = 0.3


@dataclass(frozen=True, slots=True)
class Vllm:
    """vLLM, of this environment or of the one whose Python the settings name."""

    settings: Settings
    name: str = NAME

    def version(self) -> str:
        """The installed version."""
        return self.installed().version

    def accepts(self) -> frozenset[str]:
        """The option names that the installed version takes in a profile."""
        installed = self.installed()
        refused = frozenset() if vllm_sleep.is_supported(installed) else frozenset({sleep.OPTION})
        return installed.flags.names - vllm_command.RESERVED - refused

    def default(self, model: Model, machine: Machine) -> Profile:
        """vLLM's own defaults, plus only what it cannot start without here."""
        installed = self.installed()
        return vllm_default.profile(model, machine, installed, self.settings.context_length)

    def installed(self) -> Installed:
        """Where it is and what it takes.

        Raises:
            EngineMissing: nowhere.
        """
        return vllm_installed.find(self.settings.vllm_python or metal.python(self.settings))

    def start(self, profile: Profile) -> AbstractAsyncContextManager[Endpoint]:
        """Launch it, wait until it has really answered, and stop it on leaving."""
        return _started(self.installed(), profile, self.settings)


def from_settings(settings: Settings) -> Vllm:
    """The engine as the environment describes it."""
    return Vllm(settings)


class _Life:
    """The launched vLLM: it has ended when any of its processes has."""

    def __init__(self, child: process.Child, died: asyncio.Event) -> None:
        self._child = child
        self._died = died

    @property
    def pids(self) -> tuple[int, ...]:
        return self._child.pids

    async def ended(self) -> EngineFailed:
        """Of the server's exit and the engine core's death, whichever is noticed first."""
        watchers = {
            asyncio.ensure_future(self._died.wait()),
            asyncio.ensure_future(self._child.ended()),
        }
        try:
            await asyncio.wait(watchers, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for watcher in watchers:
                watcher.cancel()
        await asyncio.sleep(LAST_WORDS_S)
        return self._child.cause()


@asynccontextmanager
async def _started(
    installed: Installed, profile: Profile, settings: Settings
) -> AsyncIterator[Endpoint]:
    what = served(names.resolve(profile.model, settings), profile, settings)
    port = process.free_port(vllm_command.HOST)
    command = vllm_command.command(profile, port, what, installed)
    environment = vllm_command.environment(profile, settings.environment, installed=installed)
    environment |= orphans.mark()
    await asyncio.to_thread(orphans.stop)
    died = asyncio.Event()
    story = Story(on_death=died.set, on_phase=lambda words: LOG.info("vLLM %s", words))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vllama-") as scratch:
        if vllm_live.options(profile, installed):
            environment[vllm_live.VARIABLE] = str(Path(scratch) / "limits.json")
            story.facts["live_limits"] = environment[vllm_live.VARIABLE]
        launch = process.launch(
            command, name=NAME, environment=environment, on_line=story.read, is_fatal=is_fatal,
            explain=lambda tail: explain((*story.errors, *tail)),
        )  # fmt: skip
        async with launch as child:
            endpoint = Endpoint(
                base_url=f"http://{vllm_command.HOST}:{port}",
                model=profile.model,
                engine=NAME,
                life=_Life(child, died),
                version=installed.version,
                command=tuple(command),
            )
            try:
                await _ready(child, endpoint, what.pools, settings.load_timeout_s, story)
            except EngineFailed as failure:
                failure.phase = failure.phase or story.phase
                raise
            facts = await _facts(endpoint.base_url, story)
            yield replace(
                endpoint, start_s=time.monotonic() - began, facts=facts,
                sleep=vllm_sleep.of(endpoint.base_url, profile, facts, installed),
            )  # fmt: skip


async def _ready(
    child: process.Child, endpoint: Endpoint, embeds: bool, timeout_s: float, story: Story
) -> None:
    """Wait until it is healthy and has answered once.

    When it dies of that answer, its log says why, and not the request that broke off.
    """
    url, life = endpoint.base_url, endpoint.life
    ended = asyncio.ensure_future(life.ended())
    try:
        ready = process.wait_ready(
            child, lambda: probe.is_healthy(url), what="vLLM",
            stall_s=lambda: timeout_s * PATIENCE.get(story.phase, 1.0),
        )  # fmt: skip
        await _unless(ended, ready)
        await _unless(
            ended, probe.first_answer(url, endpoint.model, embeds=embeds, timeout_s=timeout_s)
        )
    finally:
        ended.cancel()


async def _unless(ended: "asyncio.Future[EngineFailed]", work: Coroutine[None, None, None]) -> None:
    """Do the work, or raise what ended the engine before or shortly after it failed."""
    task = asyncio.ensure_future(work)
    both: set[asyncio.Future[Any]] = {task, ended}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if task.done() and task.exception() is not None:
            await asyncio.wait({ended}, timeout=LAST_WORDS_S * 2)
        if ended.done():
            raise ended.result()
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _facts(url: str, story: Story) -> dict[str, Fact]:
    """What the log said, and how long a request may be as the server itself says it."""
    listed = await probe.ask_json(url, "/v1/models")
    for each in listed.get("data") or []:
        if isinstance(each.get("max_model_len"), int):
            return {**story.facts, "max_model_len": each["max_model_len"]}
    return dict(story.facts)


def served(model: Model, profile: Profile, settings: Settings) -> Served:
    """What a launch of `profile` serves.

    Raises:
        UsageError: vLLM cannot read the model's weights.
    """
    if model.safetensors is None:
        raise UsageError(
            f"vLLM needs the safetensors weights of {model.name}, and here is only GGUF",
            "Serve it with --engine llamacpp, or give the folder of the original model.",
        )
    return Served(model.safetensors, _pools(model, profile), _adapter(model, settings))


def _pools(model: Model, profile: Profile) -> bool:
    """Whether it is served for embeddings: vLLM does either that or generation."""
    if "runner" in profile.options or "convert" in profile.options:
        return profile.options.get("runner") == "pooling" or "convert" in profile.options
    return model.shape.pooling is not None


def _adapter(model: Model, settings: Settings) -> Path | None:
    """The adapter that belongs to a model made by `create`, if vLLM can read it."""
    if Path(model.name).is_absolute():
        return None
    adapter = catalogue.card(model.name, settings).adapter
    return adapter if adapter is not None and adapter.is_dir() else None
