"""Other people's proxies, each in an environment of its own, made when it is first wanted."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

INSTALL_S = 240.0


class Missing(Exception):
    """It cannot be had here; why."""


@dataclass(frozen=True, slots=True)
class Other:
    """A program of a package: `words` are its arguments to serve a URL as the model `m`."""

    name: str
    package: str
    program: str
    words: Callable[[str], list[str]]
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(self, url: str) -> list[str]:
        """What serves `url`.

        Raises:
            Missing: it cannot be installed.
        """
        home = Path(".cache") / self.program
        program = home / "bin" / self.program
        if not program.exists():
            _install(self.package, home)
        return [str(program), *self.words(url)]


def _litellm(url: str) -> list[str]:
    path = Path(tempfile.mkdtemp()) / "litellm.yaml"
    path.write_text(
        "model_list:\n- model_name: m\n  litellm_params:\n"
        f"    model: openai/m\n    api_base: {url}/v1\n    api_key: none\n"
    )
    return ["--host", "127.0.0.1", "--port", "PORT", "--config", str(path)]


def _router(url: str) -> list[str]:
    return [
        "--host", "127.0.0.1", "--port", "PORT", "--worker-urls", url, "--policy", "round_robin",
        "--prometheus-port", "PORT1", "--log-level", "error",
    ]  # fmt: skip


# Written in Rust, and passes bytes on as they are.
ROUTER = Other("vllm-router (Rust)", "vllm-router==0.1.17", "vllm-router", _router)
LITELLM = Other(
    "LiteLLM", "litellm[proxy]==1.83.0", "litellm", _litellm,
    # Without these it asks the network for prices and sends figures home.
    {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"},
)  # fmt: skip


def _install(package: str, home: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    found = str(uv) if uv.exists() else shutil.which("uv")
    if found is None:
        raise Missing("uv, which would install it, is not here")
    python = str(home / "bin" / "python")
    for words in (
        [found, "venv", "--quiet", "--clear", "--python", sys.executable, str(home)],
        [found, "pip", "install", "--quiet", "--python", python, package],
    ):
        try:
            done = subprocess.run(
                words, capture_output=True, text=True, timeout=INSTALL_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Missing(f"{package} could not be installed: {error}") from error
        if done.returncode:
            shutil.rmtree(home, ignore_errors=True)
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise Missing(f"{package} could not be installed: {last}")
