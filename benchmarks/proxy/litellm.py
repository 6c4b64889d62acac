"""LiteLLM's proxy, in an environment of its own that is made when it is first wanted."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = "litellm[proxy]==1.83.0"
HOME = Path(".cache/litellm")
INSTALL_S = 240.0
# Without these it asks the network for prices and sends figures home.
ENVIRONMENT = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}


class Missing(Exception):
    """It cannot be had here; why."""


def command(url: str) -> list[str]:
    """What serves `url` as the model `m`.

    Raises:
        Missing: it cannot be installed.
    """
    program = HOME / "bin" / "litellm"
    if not program.exists():
        _install()
    path = Path(tempfile.mkdtemp()) / "litellm.yaml"
    path.write_text(
        "model_list:\n- model_name: m\n  litellm_params:\n"
        f"    model: openai/m\n    api_base: {url}/v1\n    api_key: none\n"
    )
    return [str(program), "--host", "127.0.0.1", "--port", "PORT", "--config", str(path)]


def _install() -> None:
    uv = Path(sys.executable).with_name("uv")
    found = str(uv) if uv.exists() else shutil.which("uv")
    if found is None:
        raise Missing("uv, which would install it, is not here")
    python = str(HOME / "bin" / "python")
    for words in (
        [found, "venv", "--quiet", "--clear", "--python", sys.executable, str(HOME)],
        [found, "pip", "install", "--quiet", "--python", python, PACKAGE],
    ):
        try:
            done = subprocess.run(
                words,
                capture_output=True,
                text=True,
                timeout=INSTALL_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Missing(f"{PACKAGE} could not be installed: {error}") from error
        if done.returncode:
            shutil.rmtree(HOME, ignore_errors=True)
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise Missing(f"{PACKAGE} could not be installed: {last}")
