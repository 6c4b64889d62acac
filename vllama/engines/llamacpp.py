"""llama.cpp as an engine: its server as a child process, one model each."""

import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from vllama import hardware
from vllama.engines import llamacpp_log, llamacpp_options, probe, process
from vllama.engines.engine import Endpoint, Fact
from vllama.engines.llamacpp_program import FOREIGN, HOST
from vllama.engines.llamacpp_server import Runner, find
from vllama.errors import EngineFailed
from vllama.machine import Machine
from vllama.model import Model
from vllama.profile import Profile, Scalar
from vllama.settings import Settings
from vllama.store import catalogue
from vllama.store.names import resolve

SLOTS = 4
EACH_FURTHER_SLOT = 8192
FALLBACK_CONTEXT = 4096
ROUND_TO = 256
# Ollama's default of draft_num_predict.
DRAFTED = 4
_KV_BYTES = {"f32": 4.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32, "q4_1": 20 / 32,
             "q4_0": 18 / 32, "iq4_nl": 18 / 32}  # fmt: skip


def from_settings(settings: Settings) -> "LlamaCpp":
    """The engine as the environment sets it."""
    return LlamaCpp(settings)


class LlamaCpp:
    """llama.cpp: `llama-server` if there is one, else the wheel `xllamacpp`."""

    name = "llamacpp"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def version(self) -> str:
        """Which of the two, and its version."""
        return find(self._settings).version()

    def accepts(self) -> frozenset[str]:
        """What the one that is installed takes."""
        return find(self._settings).accepts()

    def default(self, model: Model, machine: Machine) -> Profile:
        """llama-server's own four slots on one pool, with the model's whole context."""
        wanted = self._settings.context_length
        options: dict[str, Scalar] = {
            "n_parallel": SLOTS,
            "kv_unified": True,
            "n_ctx": context(model, machine, wanted),
            "threads": max(1, min(machine.cpu.cores, machine.cpu.physical_cores)),
        }
        if "kv_unified" not in self.accepts():
            del options["kv_unified"]
            options["n_parallel"], options["n_ctx"] = divided(model, machine, wanted)
        if model.shape.pooling:
            # An input longer than a batch cannot be embedded.
            batch = min(model.shape.context_length or FALLBACK_CONTEXT, 8192)
            options |= {"embeddings": True, "n_batch": batch, "n_ubatch": batch}
        if model.shape.pooling == "rank":
            options["pooling"] = "rank"
        return Profile(
            "default", self.name, model.name, options,
            engine_version=self.version(), machine=machine.fingerprint,
        )  # fmt: skip

    @asynccontextmanager
    async def start(self, profile: Profile) -> AsyncIterator[Endpoint]:
        """Launch a server of its own for the profile's model."""
        runner = find(self._settings)
        model = resolve(profile.model, self._settings)
        profile = profile.with_options(
            **{**_beside(model, self._settings, runner.accepts()), **profile.options}
        )
        profile = _sound(profile, runner.accepts())
        llamacpp_options.check(profile.options, runner.accepts())
        check_memory(model, profile.options, hardware.visible(self._settings.environment))
        async with AsyncExitStack() as stack:
            try:
                endpoint = await stack.enter_async_context(self._started(runner, model, profile))
            except EngineFailed as failed:
                if failed.kind != "port":
                    raise
                # Somebody was faster at the port that was free a moment ago.
                endpoint = await stack.enter_async_context(self._started(runner, model, profile))
            yield endpoint

    @asynccontextmanager
    async def _started(
        self, runner: Runner, model: Model, profile: Profile
    ) -> AsyncIterator[Endpoint]:
        began = time.monotonic()
        port = process.free_port()
        command = runner.command(_gguf(model), model.name, port, profile.options)
        base_url = f"http://{HOST}:{port}"
        embeds = llamacpp_options.is_true(profile.options.get("embeddings", False))
        async with process.launch(
            command, name=self.name, explain=llamacpp_log.explain,
            environment={**_untouched(self._settings.environment), **profile.environment},
        ) as child:  # fmt: skip
            stall_s = self._settings.load_timeout_s
            await process.wait_ready(
                child, lambda: probe.is_healthy(base_url), stall_s=stall_s, what="llama.cpp"
            )
            load_s = time.monotonic() - began
            await child.unless_dead(
                probe.first_answer(base_url, model.name, embeds=embeds, timeout_s=stall_s)
            )
            yield Endpoint(
                base_url, model.name, self.name, child,
                version=runner.version(), command=tuple(command),
                start_s=time.monotonic() - began,
                facts=taught(model, profile.options, tuple(child.tail), load_s),
            )  # fmt: skip


def context(model: Model, machine: Machine, wanted: int) -> int:
    """Tokens of the KV pool: one whole context, and 8192 for each further slot, if they fit.

    A pool that is full fails every request in it, so the slots do not just share one context.
    """
    trained = model.shape.context_length or FALLBACK_CONTEXT
    whole = min(wanted, trained) if wanted else trained
    pool = whole + (SLOTS - 1) * min(whole, EACH_FURTHER_SLOT)
    pool = min(pool, _affordable(model, machine))
    return max(ROUND_TO, pool // ROUND_TO * ROUND_TO)


def _sound(profile: Profile, accepts: frozenset[str]) -> Profile:
    """With one pool where it embeds: with a share for each slot llama.cpp computes wrong vectors
    of texts that differ in length and come together (seen with models that read left to right)."""
    embeds = llamacpp_options.is_true(profile.options.get("embeddings", False))
    return profile.with_options(kv_unified=True) if embeds and "kv_unified" in accepts else profile


def divided(model: Model, machine: Machine, wanted: int) -> tuple[int, int]:
    """Slots and tokens for a llama.cpp that always divides: a whole context each, if they fit."""
    trained = model.shape.context_length or FALLBACK_CONTEXT
    whole = min(wanted, trained) if wanted else trained
    tokens = min(SLOTS * whole, _affordable(model, machine))
    slots = max(1, min(SLOTS, tokens // whole))
    each = max(ROUND_TO, tokens // slots // ROUND_TO * ROUND_TO)
    return slots, slots * min(each, -(-whole // ROUND_TO) * ROUND_TO)


def _affordable(model: Model, machine: Machine) -> int:
    """The tokens for which half of the memory that the weights leave is enough."""
    free = sum(g.free_bytes for g in machine.gpus) or machine.available_bytes
    room = max(0, free - model.shape.weight_bytes) // 2
    each = model.shape.kv_bytes_per_token
    return room // each if each else sys.maxsize


def check_memory(model: Model, options: Mapping[str, Scalar], machine: Machine) -> None:
    """See whether weights and KV cache can fit: on a CPU llama.cpp does not, and gets killed.

    Raises:
        EngineFailed: of kind `out_of_memory`.
    """
    needed = model.shape.weight_bytes + kv_cache_bytes(model, options)
    there = machine.available_bytes + sum(g.free_bytes for g in machine.gpus)
    if needed > there:
        gib = 1024**3
        raise EngineFailed(
            f"{model.name} needs {needed / gib:.1f} GiB with this context;"
            f" {there / gib:.1f} GiB are free",
            "Lower n_ctx, or take a smaller quantization.",
            kind="out_of_memory",
            phase="parse",
        )


def kv_cache_bytes(model: Model, options: Mapping[str, Scalar]) -> int:
    """What the KV cache takes with these options."""
    tokens = int(options.get("n_ctx", 0)) or model.shape.context_length
    halves = [
        _KV_BYTES.get(str(options.get(name, "f16")), 2.0) / 2.0 / 2.0
        for name in ("cache_type_k", "cache_type_v")
    ]
    return int(tokens * model.shape.kv_bytes_per_token * sum(halves))


def taught(
    model: Model, options: Mapping[str, Scalar], log: tuple[str, ...], load_s: float
) -> dict[str, Fact]:
    """What this start taught, with what can be worked out where the log is silent."""
    facts: dict[str, Fact] = {"kv_cache_bytes": kv_cache_bytes(model, options)}
    facts |= llamacpp_log.facts(log)
    facts["load_s"] = load_s
    per_slot = int(facts.get("n_ctx_slot", 0))
    # A slot of a shared pool is capped at the trained context; the pool is not.
    shared = int(options.get("n_ctx", 0)) or per_slot
    pool = shared if facts.get("kv_unified") else per_slot * int(facts.get("slots", 1))
    if pool:
        facts |= {"n_ctx": pool, "kv_cache_tokens": pool}
    return facts


def _untouched(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what llama-server would take for flags of its own."""
    return {k: v for k, v in environment.items() if not k.startswith(FOREIGN)}


def _beside(model: Model, settings: Settings, accepted: frozenset[str]) -> dict[str, Scalar]:
    """What belongs to a model of the store: its adapter, its eyes, and who guesses for it."""
    if model.path == Path(model.name):
        return {}
    card = catalogue.card(model.name, settings)
    files = {"lora": card.adapter, "mmproj": card.projector}
    # A folder is an adapter in peft's form, which only vLLM reads.
    found: dict[str, Scalar] = {n: str(p) for n, p in files.items() if p and p.is_file()}
    if card.draft is not None:
        guesses = int(card.parameters.get("draft_num_predict") or DRAFTED)
        wanted: dict[str, Scalar] = {"model_draft": str(card.draft), "spec_draft_n_max": guesses,
                  "spec_type": "draft-simple"}  # fmt: skip
        # Older builds need no word for it.
        found |= {name: value for name, value in wanted.items() if name in accepted}
    return found


def _gguf(model: Model) -> Path:
    if model.gguf is None:
        raise EngineFailed(
            f"{model.name} has no GGUF file, and llama.cpp needs one",
            "Use --engine vllm, or get a GGUF of it.",
            kind="bad_model",
            phase="parse",
        )
    return model.gguf
