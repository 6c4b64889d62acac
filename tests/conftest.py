"""What every test may lean on: toy models, an isolated home, and real engines shared by all."""

import fcntl
import hashlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from vllama import hardware, toy
from vllama.engines import engine
from vllama.engines.engine import Endpoint, Engine
from vllama.errors import EngineMissing
from vllama.machine import Machine
from vllama.settings import Settings
from vllama.store import names

ROOT = Path(__file__).parent.parent
CACHE = ROOT / ".cache"
REAL = ("vllm", "llamacpp")


def pytest_configure() -> None:
    """Let children hear Ctrl-C also where this was started in the background of a shell."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", name="toy")
def toy_folder() -> Path:
    """A chat model of 4M random parameters: a Hugging Face folder with GGUF files in it."""
    return _cached_toy("chat", pooling=None)


@pytest.fixture(scope="session")
def toy_embedder() -> Path:
    """An embedding model of 4M random parameters."""
    return _cached_toy("embedder", pooling="mean")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A home of this test's own; no network; engines keep their caches between test runs."""
    return isolated(tmp_path)


@pytest.fixture(scope="session")
def session_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """As `settings`, for what lives as long as the session: the shared engines."""
    return isolated(tmp_path_factory.mktemp("session"))


@pytest.fixture(scope="session")
def machine() -> Machine:
    """This computer."""
    return hardware.detect()


@pytest.fixture(scope="session")
async def llamacpp_endpoint(
    toy: Path, session_settings: Settings, machine: Machine
) -> AsyncIterator[Endpoint]:
    """A real llama.cpp that serves the toy to all tests: 4 slots of 2048 tokens."""
    real = installed("llamacpp", session_settings)
    profile = real.default(names.resolve(str(toy), session_settings), machine)
    async with real.start(profile.with_options(n_parallel=4, n_ctx=8192, threads=1)) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
async def vllm_endpoint(
    toy: Path, session_settings: Settings, machine: Machine
) -> AsyncIterator[Endpoint]:
    """A real vLLM that serves the toy to all tests; started once, and only when asked for."""
    real = installed("vllm", session_settings)
    profile = real.default(names.resolve(str(toy), session_settings), machine).with_options(
        max_model_len=2048,
        max_num_seqs=32,
        kv_cache_memory_bytes="256M",
        enforce_eager=True,
        enable_per_request_metrics=True,
        enable_prompt_tokens_details=True,
        enable_auto_tool_choice=True,
        tool_call_parser="hermes",
    )
    profile = replace(profile, environment={"VLLM_SERVER_DEV_MODE": "1"})
    async with real.start(profile) as endpoint:
        yield endpoint


def isolated(folder: Path) -> Settings:
    """Settings whose home lies in `folder`, and that never reach for the network."""
    # Ollama's and the hub's variables of whoever runs the tests must not change the results.
    strange = ("VLLAMA_HOME", "OLLAMA_", "HF_", "HUGGING_FACE_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(strange)}
    environment |= {
        "VLLAMA_HOME": str(folder / "home"),
        "OLLAMA_MODELS": str(folder / "ollama-models"),
        "HF_HOME": str(folder / "hub"),
        "HF_HUB_OFFLINE": "1",
        "VLLM_CACHE_ROOT": str(CACHE / "vllm"),
    }
    return Settings.from_environment(environment)


def installed(name: str, settings: Settings) -> Engine:
    """A real engine; without it the test is skipped, in CI it fails."""
    real = engine(name, settings)
    try:
        real.version()
    except EngineMissing as missing:
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(f"CI must test the real {name}: {missing}")
        pytest.skip(f"{name} is not installed: {missing}")
    return real


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs an engine that is not here, or fail in CI."""
    for name in REAL:
        if item.get_closest_marker(name):
            installed(name, Settings.from_environment())


def _cached_toy(name: str, pooling: str | None) -> Path:
    """Made once for each state of the code that makes it, also by tests run side by side."""
    sources = sorted((ROOT / "vllama" / "toy").glob("*.py"))
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in sources)).hexdigest()[:12]
    folder = CACHE / "toys" / f"{name}-{digest}"
    with _locked(CACHE / "toys" / "lock"):
        if not folder.exists():
            toy.make(folder, parameters=4_000_000, pooling=pooling)
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
