"""Asking the installed vLLM what a candidate would become, without starting it.

A helper process keeps vLLM imported and builds its configuration in hundredths of a second:
all defaults filled in, every constraint raised. What it cannot see: memory, kernels.
"""

import asyncio
import json
import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

from vllama.engines import process, vllm_command
from vllama.engines.vllm import Vllm, served
from vllama.engines.vllm_log import explain, refusal
from vllama.errors import EngineFailed
from vllama.profile import Profile, Scalar
from vllama.store import names

CHILD = Path(__file__).parent / "vllm_inside" / "vllama_dry_run.py"
ANSWER_S = 30.0
Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What vLLM made of some options.

    `reason` says in words why it would not start, empty when it would. `effective` are all
    plain values of its configuration by name. Both are empty when vLLM could not be asked.
    """

    effective: Mapping[str, Scalar | None] = field(default_factory=dict)
    reason: str = ""


class DryRun:
    """A helper for one model: `async with DryRun(engine, profile) as dry: await dry.check({})`.

    The helper starts with the first check, and again after it has died or fallen silent.
    """

    def __init__(self, engine: Vllm, profile: Profile, answer_s: float = ANSWER_S) -> None:
        self._engine = engine
        self._profile = profile
        self._answer_s = answer_s
        self._model = names.resolve(profile.model, engine.settings)
        self._stack = AsyncExitStack()
        self._streams: Streams | None = None
        self._turn = asyncio.Lock()
        self.starts = 0

    async def __aenter__(self) -> "DryRun":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stop()

    async def check(self, options: Mapping[str, Scalar]) -> Verdict:
        """What the profile with `options` in place of its own would become.

        Raises:
            EngineFailed: the helper itself does not start.
        """
        profile = Profile(self._profile.name, "vllm", self._profile.model, options)
        try:
            what = served(self._model, profile, self._engine.settings)
            words = vllm_command.command(profile, 1, what, self._engine.installed())
        except EngineFailed as refusal:
            return Verdict(reason=str(refusal))
        return await self.told(words[words.index("serve") + 1 :])

    async def told(self, arguments: list[str]) -> Verdict:
        """What vLLM makes of these words after `vllm serve`.

        Raises:
            EngineFailed: the helper itself does not start.
        """
        async with self._turn:
            answer = await self._ask(arguments)
        if "error" in answer:
            return Verdict(reason=_words(str(answer["error"])))
        return Verdict(effective=answer.get("effective", {}))

    async def _ask(self, arguments: list[str]) -> dict[str, Any]:
        if self._streams is None:
            self._streams = await self._start()
        reader, writer = self._streams
        try:
            writer.write(json.dumps(arguments).encode() + b"\n")
            line = await asyncio.wait_for(reader.readline(), self._answer_s)
            answer = json.loads(line)
        except (TimeoutError, ConnectionError, ValueError):
            await self._stop()
            return {}
        return answer if isinstance(answer, dict) else {}

    async def _start(self) -> Streams:
        self.starts += 1
        installed = self._engine.installed()
        settings = self._engine.settings
        linked: asyncio.Future[Streams] = asyncio.get_running_loop().create_future()

        async def link(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            if not linked.done():
                linked.set_result((reader, writer))

        place = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="vllama-"))
        path = str(Path(place) / "dry")
        server = await asyncio.start_unix_server(link, path, limit=1 << 20)
        self._stack.callback(server.close)
        environment = vllm_command.environment(
            self._profile, settings.environment, installed=installed
        )
        command = [str(installed.python), str(CHILD), path]
        launch = process.launch(
            command, name="vllm.dry_run", environment=environment, explain=explain
        )
        child = await self._stack.enter_async_context(launch)
        try:
            await asyncio.wait_for(child.unless_dead(_arrival(linked)), settings.load_timeout_s)
        except (TimeoutError, EngineFailed) as failure:
            await self._stop()
            raise failure if isinstance(failure, EngineFailed) else _silent() from failure
        return linked.result()

    async def _stop(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None
        await self._stack.aclose()
        self._stack = AsyncExitStack()


async def _arrival(linked: asyncio.Future[Streams]) -> None:
    await linked


def _silent() -> EngineFailed:
    return EngineFailed(
        "vLLM's helper did not come up",
        "Look at its log with --verbose, or tune without it.",
        kind="timeout",
        phase="dry_run",
    )


def _words(error: str) -> str:
    """The sentence of it that says what is wrong."""
    lines = [line for line in error.splitlines() if line.strip()]
    known = explain(lines)
    if known.phase:
        return known.message.removeprefix("vLLM failed: ")
    return (refusal(lines) or lines[0]).removeprefix("Refused: ")
