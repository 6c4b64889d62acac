"""The two ways to run llama.cpp's server: the program `llama-server`, and the wheel `xllamacpp`."""

import functools
import importlib.metadata
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vllama.engines import install, llamacpp_options
from vllama.engines.llamacpp_options import OPTIONS
from vllama.engines.llamacpp_program import ASK_S, HOST, Program
from vllama.errors import EngineMissing
from vllama.profile import Scalar
from vllama.settings import Settings


class Runner(Protocol):
    """A llama.cpp that is installed."""

    def version(self) -> str:
        """Which one, and its version."""
        ...

    def accepts(self) -> frozenset[str]:
        """The option names that it takes."""
        ...

    def command(
        self, model: Path, alias: str, port: int, options: Mapping[str, Scalar]
    ) -> list[str]:
        """The command that serves `model` as `alias` on the loopback's `port`."""
        ...


@dataclass(frozen=True, slots=True)
class Wheel:
    """The wheel `xllamacpp`, run by a program of ours."""

    number: str

    def version(self) -> str:
        """Such as `xllamacpp 2026.10.11549`."""
        return f"xllamacpp {self.number}"

    def accepts(self) -> frozenset[str]:
        """Those whose field this wheel has."""
        return _wheel_accepts(self.number)

    def command(
        self, model: Path, alias: str, port: int, options: Mapping[str, Scalar]
    ) -> list[str]:
        """Our program with the fields to set."""
        fields: dict[str, Any] = {
            "model.path": str(model),
            "model_alias": [alias],
            "hostnames": [HOST],
            "port": port,
            "endpoint_metrics": True,
            "endpoint_slots": True,
            # By default any web page may read what the server answers.
            "cors_origins": "",
            "cors_origins_explicit": True,
            **llamacpp_options.fields(options),
        }
        return [*_CHILD, json.dumps(fields)]


# -P: what lies beside the program (`ollama.py`, `vllm.py`) must not hide packages.
_CHILD = (sys.executable, "-P", str(Path(__file__).with_name("llamacpp_child.py")))


def find(settings: Settings) -> Runner:
    """The program that the settings name, else the one on the PATH, else the wheel.

    Raises:
        EngineMissing: there is none.
    """
    if settings.llama_server is not None and not settings.llama_server.is_file():
        raise EngineMissing(
            f"there is no {settings.llama_server}",
            "VLLAMA_LLAMA_SERVER must be the path of a llama-server.",
        )
    program = settings.llama_server or shutil.which(
        "llama-server", path=settings.environment.get("PATH", "")
    )
    if program is not None:
        return Program(Path(program))
    try:
        return Wheel(importlib.metadata.version("xllamacpp"))
    except importlib.metadata.PackageNotFoundError:
        raise EngineMissing("llama.cpp is not installed", install.hint("llamacpp")) from None


@functools.cache
def _wheel_accepts(number: str) -> frozenset[str]:
    """Asked in a process of its own: the wheel is native code, and differs by `number`."""
    paths = [option.path for option in OPTIONS.values() if option.path]
    done = subprocess.run(
        [*_CHILD, "--fields"], input=json.dumps(paths), capture_output=True, text=True,
        timeout=ASK_S, check=False,
    )  # fmt: skip
    if done.returncode:
        raise EngineMissing(
            f"xllamacpp {number} cannot be loaded: {done.stderr.strip()[-300:]}",
            install.hint("llamacpp"),
        )
    known = set(json.loads(done.stdout))
    return frozenset(name for name, option in OPTIONS.items() if option.path in known)
