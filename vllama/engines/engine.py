"""The seam: an engine starts with a profile and yields an endpoint."""

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from vllama.engines.sleep import Sleep, Sleepless
from vllama.errors import EngineFailed
from vllama.machine import Machine
from vllama.model import Model
from vllama.profile import Profile

Api: TypeAlias = Literal["openai", "ollama"]
Fact: TypeAlias = str | int | float


class Life(Protocol):
    """Whether what serves an endpoint still lives."""

    @property
    def pids(self) -> tuple[int, ...]:
        """Processes that belong to it, for measuring memory; empty when unknown."""
        ...

    async def ended(self) -> EngineFailed:
        """Wait until it has died unasked; the reason why. Never returns while it lives."""
        ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Something that answers HTTP: running and ready by construction.

    `base_url` has no trailing slash and no `/v1`; `model` is what requests must name.
    `facts` is what the start taught: `kv_cache_tokens`, `load_s`, `compile_s`, ...
    `sleep` is how it gives its memory back without being stopped, where it can.
    """

    base_url: str
    model: str
    engine: str
    life: Life
    api: Api = "openai"
    version: str = ""
    command: tuple[str, ...] = ()
    start_s: float = 0.0
    facts: Mapping[str, Fact] = field(default_factory=dict)
    sleep: Sleep = field(default_factory=Sleepless)


class Engine(Protocol):
    """One kind of inference engine. It does not know who uses it."""

    @property
    def name(self) -> str:
        """Such as `vllm`."""
        ...

    def version(self) -> str:
        """The installed version.

        Raises:
            EngineMissing: it is not installed; the remedy says what to install.
        """
        ...

    def accepts(self) -> frozenset[str]:
        """The option names that the installed version takes in a profile."""
        ...

    def default(self, model: Model, machine: Machine) -> Profile:
        """The engine's own defaults, plus only what it cannot start without here."""
        ...

    def start(self, profile: Profile) -> AbstractAsyncContextManager[Endpoint]:
        """Launch, wait until it really answers, and stop it on leaving.

        Leaving the context leaves no process, port or memory behind.

        Raises (on entering):
            EngineMissing: not installed.
            EngineFailed: with the cause in the user's words and what to do.
        """
        ...


class Immortal:
    """The life of something that vllama neither started nor watches."""

    pids: tuple[int, ...] = ()

    async def ended(self) -> EngineFailed:
        """Never."""
        never: asyncio.Future[EngineFailed] = asyncio.get_running_loop().create_future()
        return await never
