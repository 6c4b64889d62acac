"""The simulator as an engine: a real child process that behaves like a vLLM on a known card.

Never chosen by `auto`. It serves any model name, knows the optimum of its world exactly, and
fails as its options say; see `simulator_faults`.
"""

import json
import re
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from vllama.engines import probe, process, sleep
from vllama.engines.engine import Api, Endpoint, Fact
from vllama.engines.simulator_faults import Faults
from vllama.engines.sleep_http import SleepOverHttp
from vllama.engines.vllm_log import is_fatal
from vllama.errors import EngineFailed
from vllama.machine import Machine
from vllama.model import Model
from vllama.profile import Profile
from vllama.settings import Settings

NAME = "simulator"
VERSION = "simulator 1"
# `world` is a name of `simulator_world.WORLDS`; `time_scale` stretches every step; `script`
# is a file of answers; `answer_tokens` how long an unscripted answer is; `api` what the
# endpoint says it speaks (it speaks both).
OWN = frozenset({"world", "time_scale", "seed", "script", "answer_tokens", "api"})
LIKE_VLLM = frozenset(
    {
        "max_num_seqs", "max_num_batched_tokens", "max_model_len", "gpu_memory_utilization",
        "kv_cache_dtype", "async_scheduling", "max_cudagraph_capture_size",
        "enable_prefix_caching", sleep.OPTION,
    }
)  # fmt: skip


def from_settings(settings: Settings) -> "Simulator":
    """The engine; it needs nothing to be installed."""
    return Simulator(settings)


class Simulator:
    """A simulated vLLM."""

    name = NAME

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def version(self) -> str:
        """Its own."""
        return VERSION

    def accepts(self) -> frozenset[str]:
        """Some of vLLM's names, the simulator's own, and the faults."""
        return LIKE_VLLM | OWN | Faults.names()

    def default(self, model: Model, machine: Machine) -> Profile:
        """Nothing set."""
        return Profile(
            "default", NAME, model.name, engine_version=VERSION, machine=machine.fingerprint
        )

    @asynccontextmanager
    async def start(self, profile: Profile) -> AsyncIterator[Endpoint]:
        """Launch it; what it serves is called as the profile calls the model."""
        unknown = set(profile.options) - self.accepts()
        if unknown:
            raise EngineFailed(
                f"the simulator has no option '{min(unknown)}'",
                f"There are: {', '.join(sorted(self.accepts()))}.",
                kind="bad_option", phase="parse",
            )  # fmt: skip
        began = time.monotonic()
        port = process.free_port()
        command = command_for(profile, port)
        base_url = f"http://127.0.0.1:{port}"
        api: Api = "ollama" if profile.options.get("api") == "ollama" else "openai"
        async with process.launch(
            command, name=NAME, explain=explain, is_fatal=is_fatal,
            environment={**self._settings.environment, **profile.environment},
        ) as child:  # fmt: skip
            stall_s = self._settings.load_timeout_s
            await process.wait_ready(
                child, lambda: probe.is_healthy(base_url), stall_s=stall_s, what="the simulator"
            )
            yield Endpoint(
                base_url, profile.model, NAME, child, api=api, version=VERSION,
                command=tuple(command), start_s=time.monotonic() - began,
                facts=facts(tuple(child.tail)), sleep=_sleep(base_url, profile),
            )  # fmt: skip


def _sleep(base_url: str, profile: Profile) -> sleep.Sleep:
    """What it simulates takes no memory, awake or asleep."""
    if profile.options.get(sleep.OPTION) is True:
        return SleepOverHttp(base_url, host_bytes=0.0)
    return sleep.Sleepless()


def command_for(profile: Profile, port: int) -> list[str]:
    """The command that serves the profile."""
    given = {"model": profile.model, "port": port, "options": dict(profile.options)}
    return [sys.executable, "-m", "vllama.engines.simulator_child", json.dumps(given)]


def explain(log: Sequence[str]) -> EngineFailed:
    """From its last words to a cause."""
    text = "\n".join(log)
    if found := re.search(r"(out_of_memory|bad_option) in phase (\w+): (.*)", text):
        return EngineFailed(found[3], kind=found[1], phase=found[2], log=log)
    if "CUDA out of memory" in text:
        return EngineFailed("CUDA out of memory", kind="out_of_memory", phase="run", log=log)
    if "Address already in use" in text or "address already in use" in text:
        return EngineFailed("the port is taken", kind="port", log=log)
    phase = "run" if "Starting the simulated server" in text else "load"
    last = process.last_words(log)
    return EngineFailed(f"the simulator ended: {last}", kind="crash", phase=phase, log=log)


def facts(log: Sequence[str]) -> dict[str, Fact]:
    """What a start taught."""
    text = "\n".join(log)
    found: dict[str, Fact] = {}
    if match := re.search(r"KV cache size: ([\d,]+) tokens", text):
        found["kv_cache_tokens"] = int(match[1].replace(",", ""))
    if match := re.search(r"init engine .* took ([\d.]+) seconds", text):
        found["load_s"] = float(match[1])
    return found
