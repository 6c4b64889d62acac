"""Where vllm-metal lies: vLLM on Apple silicon, in an environment of its own."""

import platform
from pathlib import Path

from vllama.settings import Settings

MIN_MACOS = 15
FOLDER = ".venv-vllm-metal"


def python(settings: Settings) -> Path | None:
    """The Python of vllm-metal where its installer puts it; None where it cannot run."""
    if platform.system() != "Darwin" or platform.machine() != "arm64":
        return None
    major = platform.mac_ver()[0].partition(".")[0]
    if not major.isdigit() or int(major) < MIN_MACOS:
        return None
    home = Path(settings.environment.get("HOME") or Path.home()) / FOLDER
    found = sorted(home.glob("lib/python3*/site-packages/vllm_metal"))
    program = home / "bin" / "python"
    return program if found and program.exists() else None
