"""From a profile to the command and the environment that launch vLLM: pure functions."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vllama.engines import vllm_live, vllm_sleep
from vllama.engines.vllm_installed import Installed
from vllama.errors import EngineFailed
from vllama.profile import Profile, Scalar

SERVE = Path(__file__).parent / "vllm_inside" / "vllama_serve.py"
HOST = "127.0.0.1"
# The name of an adapted model's base; nobody asks for it.
BASE = "#base"
# The sizes that vLLM lays its buffers out for.
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)

# vllama sets these itself, or needs them as they are to find the server again.
RESERVED = frozenset(
    {"model", "model_tag", "host", "port", "uds", "served_model_name", "api_key", "headless",
     "grpc", "config", "root_path", "ssl_keyfile", "ssl_certfile"}
)  # fmt: skip
# Wanted wherever the installed version has them; a profile may say otherwise.
WANTED: Mapping[str, Scalar] = {
    "enable_per_request_metrics": True,
    "enable_prompt_tokens_details": True,
    "disable_uvicorn_access_log": True,
    # Weak models write white space for ever where JSON allows it; a request cannot forbid it,
    # and the automatic choice of a backend cannot either.
    "structured_outputs_config": '{"backend": "guidance", "disable_any_whitespace": true}',
}
GONE = {
    "swap_space": "vLLM 0.18 removed it, without effect since its V1 engine. The nearest is "
    "kv_offloading_size.",
    "disable_log_requests": "vLLM 0.17 removed it: requests are not logged by default. Drop it.",
    "task": "vLLM 0.13 removed it. Use runner and convert.",
    "num_scheduler_steps": "It went with vLLM's V0 engine. Drop it.",
    "max_seq_len_to_capture": "It went with vLLM's V0 engine. Use max_cudagraph_capture_size.",
    "max_num_partial_prefills": "vLLM 0.27 removed it. Use long_prefill_token_threshold.",
    "calculate_kv_scales": "vLLM 0.28 removed it. Drop it.",
}


@dataclass(frozen=True, slots=True)
class Served:
    """What is served: the weights in `folder`, for embeddings when it `pools`.

    `adapter` is a LoRA adapter in peft's layout that requests of the profile's name get.
    """

    folder: Path
    pools: bool = False
    adapter: Path | None = None


def command(profile: Profile, port: int, served: Served, installed: Installed) -> list[str]:
    """The words that launch `profile`.

    Raises:
        EngineFailed: of kind `bad_option`, naming an option that this vLLM does not have.
    """
    check(profile.options, installed)
    options: dict[str, Scalar] = {k: v for k, v in WANTED.items() if k in installed.flags.names}
    if served.pools and "runner" in installed.flags.names:
        options["runner"] = "pooling"
    if served.adapter is not None:
        options |= _adapted(profile.model, served.adapter)
    options |= profile.options
    options |= vllm_live.options(profile, installed)
    options |= vllm_sleep.options(profile, installed)
    name = profile.model if served.adapter is None else f"{profile.model}{BASE}"
    words = [str(installed.python), str(SERVE), "serve", str(served.folder)]
    words += ["--host", HOST, "--port", str(port), "--served-model-name", name]
    for option, value in options.items():
        words += _words(option, value, installed)
    return words


def _adapted(name: str, adapter: Path) -> dict[str, Scalar]:
    """An adapter is a model of its own name beside its base; vLLM wants to know its rank."""
    rank = int(
        json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8")).get("r")
        or RANKS[0]
    )
    room = next((each for each in RANKS if each >= rank), rank)
    return {"enable_lora": True, "lora_modules": f"{name}={adapter}", "max_lora_rank": room}


def check(options: Mapping[str, Scalar], installed: Installed) -> None:
    """See whether the installed vLLM takes all of `options`.

    argparse would also take a beginning of a name, and a wrong one costs a whole start.

    Raises:
        EngineFailed: of kind `bad_option`; the remedy names what is meant.
    """
    for name in options:
        if name in RESERVED:
            raise EngineFailed(
                f"vllama itself sets vLLM's option '{name}'",
                "Leave it out of the profile.",
                kind="bad_option",
                phase="command",
            )
        if name not in installed.flags.names:
            raise EngineFailed(
                f"vLLM {installed.version} has no option '{name}'",
                _instead(name, installed.flags.names),
                kind="bad_option",
                phase="command",
            )


def environment(
    profile: Profile, base: Mapping[str, str], *, installed: Installed
) -> dict[str, str]:
    """What the launched vLLM finds in its environment: `base`, our needs, the profile's own."""
    ours = {
        "PYTHONUNBUFFERED": "1",
        "NO_COLOR": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "INFO",
        # Five seconds by default: a pooled client would meet closed connections.
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "600",
    }
    if "structured_outputs_config" not in profile.options:
        # The backend that is wanted refuses the grammar with which vLLM's parsers hold strict
        # tools to their schema (vLLM's issue 55152): a 400 for each such request.
        ours["VLLM_ENFORCE_STRICT_TOOL_CALLING"] = "0"
    if installed.is_cpu:
        # There it only ever misses, and compiles again what it has just failed to load.
        ours["VLLM_USE_AOT_COMPILE"] = "0"
        ours["VLLAMA_FORK_ENGINE_CORE"] = "1"
    if not (installed.folder / "__pycache__").exists():
        # Packages that were installed without bytecode, as uv does, are compiled at each import
        # of each process, for more than half of its time; here it is kept for the next start.
        ours["PYTHONPYCACHEPREFIX"] = str(_cache(base) / "bytecode")
    ours |= vllm_sleep.environment(profile, installed)
    merged = {**base, **ours, **profile.environment}
    if "PYTHONDONTWRITEBYTECODE" not in profile.environment:
        merged.pop("PYTHONDONTWRITEBYTECODE", None)
    # With it vLLM would not find our modules beside the program that it runs.
    merged.pop("PYTHONSAFEPATH", None)
    # An empty one crashes the worker; a profile says kv_cache_memory_bytes instead.
    if not merged.get("VLLM_CPU_KVCACHE_SPACE") or "kv_cache_memory_bytes" in profile.options:
        merged.pop("VLLM_CPU_KVCACHE_SPACE", None)
    return merged


def _cache(base: Mapping[str, str]) -> Path:
    """Where vLLM keeps its compiled code."""
    root = base.get("XDG_CACHE_HOME") or str(Path(base.get("HOME", "~")).expanduser() / ".cache")
    return Path(base.get("VLLM_CACHE_ROOT") or Path(root) / "vllm")


def _words(name: str, value: Scalar, installed: Installed) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if value is True:
        return [flag]
    if value is False:
        return [f"--no-{flag[2:]}"] if name in installed.flags.negatable else []
    return [flag, str(value)]


def _instead(name: str, names: frozenset[str]) -> str:
    if name in GONE:
        return GONE[name]
    near = difflib.get_close_matches(name.replace("-", "_"), sorted(names), n=3, cutoff=0.6)
    return (
        f"Did you mean {', '.join(near)}?" if near else "See vllm serve --help=all for its options."
    )
