"""What the environment says: the only place that reads it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vllama import durations
from vllama.errors import UsageError

DEFAULT_PORT = 11434
_SCHEME_PORT = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """Where an Ollama-like server listens, from `OLLAMA_HOST`."""

    scheme: str
    host: str
    port: int

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Ollama's forms: `host`, `host:port`, `:port`, `scheme://host[:port][/path]`."""
        scheme, separator, rest = text.strip().strip("\"'").rpartition("://")
        scheme = scheme or "http"
        port = _SCHEME_PORT.get(scheme, DEFAULT_PORT) if separator else DEFAULT_PORT
        host = rest.split("/", 1)[0]
        name, colon, number = host.rpartition(":")
        if colon and not host.endswith("]") and (name.count(":") == 0 or name.startswith("[")):
            port = int(number) if number.isdigit() and int(number) < 65536 else DEFAULT_PORT
            host = name
        return cls(scheme, host.strip("[]") or "127.0.0.1", port)


@dataclass(frozen=True, slots=True)
class Settings:
    """The environment, read once at the edge and handed down."""

    home: Path
    address: Address
    keep_alive_s: float
    ollama_models: Path
    origins: tuple[str, ...]
    context_length: int
    max_loaded_models: int
    max_queue: int
    keeps_blobs: bool
    load_timeout_s: float
    hub_cache: Path
    hub_endpoint: str
    hub_token: str | None
    hub_offline: bool
    vllm_python: Path | None
    llama_server: Path | None
    environment: Mapping[str, str]

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Settings":
        """Read `environment` (default: this process's)."""
        env = {k: v.strip().strip("\"'") for k, v in (environment or os.environ).items()}
        user = Path(env.get("HOME") or Path.home())
        hub_home = Path(env.get("HF_HOME") or user / ".cache" / "huggingface")
        return cls(
            home=Path(env.get("VLLAMA_HOME") or user / ".vllama"),
            address=Address.parse(env.get("OLLAMA_HOST", "")),
            keep_alive_s=_duration(env, "OLLAMA_KEEP_ALIVE", 300.0),
            ollama_models=Path(env.get("OLLAMA_MODELS") or user / ".ollama" / "models"),
            origins=tuple(o.strip() for o in env.get("OLLAMA_ORIGINS", "").split(",") if o.strip()),
            context_length=_count(env, "OLLAMA_CONTEXT_LENGTH", 0),
            max_loaded_models=_count(env, "OLLAMA_MAX_LOADED_MODELS", 0),
            max_queue=_count(env, "OLLAMA_MAX_QUEUE", 512),
            keeps_blobs=_is_set(env, "OLLAMA_NOPRUNE"),
            load_timeout_s=_duration(env, "OLLAMA_LOAD_TIMEOUT", 300.0) or durations.FOREVER,
            hub_cache=Path(env.get("HF_HUB_CACHE") or hub_home / "hub"),
            hub_endpoint=env.get("HF_ENDPOINT") or "https://huggingface.co",
            hub_token=env.get("HF_TOKEN") or None,
            hub_offline=env.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"},
            vllm_python=_path(env, "VLLAMA_VLLM_PYTHON"),
            llama_server=_path(env, "VLLAMA_LLAMA_SERVER"),
            environment=dict(environment or os.environ),
        )


def _duration(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name)
    if not text:
        return default
    try:
        return durations.parse_lifetime(text)
    except ValueError as error:
        raise UsageError(f"{name}: {error}", "Write it like 5m, 1h30m, 300 or -1.") from error


def _count(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name)
    if not text:
        return default
    if not text.isdigit():
        raise UsageError(f"{name} must be a whole number, not '{text}'")
    return int(text)


def _is_set(env: Mapping[str, str], name: str) -> bool:
    """As Ollama reads it: what is no boolean counts as true."""
    return env.get(name, "") not in ("", "0", "f", "F", "false", "FALSE", "False")


def _path(env: Mapping[str, str], name: str) -> Path | None:
    text = env.get(name)
    return Path(text) if text else None
