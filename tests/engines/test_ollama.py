"""An Ollama is used as it runs, or started; both against a fake with Ollama's answers."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from vllama.engines import engine
from vllama.engines.ollama import environment
from vllama.engines.process import free_port
from vllama.errors import EngineFailed, EngineMissing
from vllama.profile import Profile
from vllama.settings import Address, Settings

FAKE = Path(__file__).with_name("fake_ollama.py")
PROFILE = Profile("default", "ollama", "tiny")


def ask(url: str, path: str) -> Any:
    return httpx.get(url + path, trust_env=False).json()


@pytest.fixture
def nowhere(settings: Settings) -> Settings:
    """No Ollama runs and none is installed."""
    address = Address("http", "127.0.0.1", free_port())
    return replace(settings, address=address, environment={"PATH": "/nonexistent"})


@pytest.fixture
def on_path(nowhere: Settings, tmp_path: Path) -> Settings:
    """None runs, but the program is there."""
    program = tmp_path / "bin" / "ollama"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$@"\n')
    program.chmod(0o755)
    return replace(nowhere, environment={"PATH": f"{program.parent}:{os.environ['PATH']}"})


@pytest.fixture
def running(nowhere: Settings) -> Iterator[Settings]:
    """One runs, as its user has started it."""
    address = nowhere.address
    server = subprocess.Popen(
        [sys.executable, str(FAKE), "serve"],
        env={**os.environ, "OLLAMA_HOST": f"{address.host}:{address.port}"},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        server.stdout.readline()
        yield nowhere
    finally:
        server.kill()
        server.communicate()


async def test_the_one_that_runs_is_used_with_its_model_loaded_and_left_as_it_was(
    running: Settings,
) -> None:
    url = running.address.url
    async with engine("ollama", running).start(PROFILE) as endpoint:
        assert (endpoint.base_url, endpoint.api, endpoint.model) == (url, "ollama", "tiny")
        assert endpoint.version == "0.12.6"
        assert endpoint.facts["load_s"] == 2.0
        assert endpoint.facts["n_ctx_slot"] == 4096
        assert [m["name"] for m in ask(url, "/api/ps")["models"]] == ["tiny:latest"]
    assert ask(url, "/api/ps")["models"] == []
    assert ask(url, "/api/version") == {"version": "0.12.6"}


async def test_a_model_that_was_loaded_before_stays_loaded(running: Settings) -> None:
    url = running.address.url
    async with httpx.AsyncClient(trust_env=False) as client:
        await client.post(f"{url}/api/generate", json={"model": "tiny"})
    async with engine("ollama", running).start(PROFILE):
        pass
    assert [m["name"] for m in ask(url, "/api/ps")["models"]] == ["tiny:latest"]


async def test_one_is_started_when_none_runs_and_goes_again(on_path: Settings) -> None:
    async with engine("ollama", on_path).start(PROFILE) as endpoint:
        assert endpoint.life.pids
        assert endpoint.base_url != on_path.address.url
    with pytest.raises(httpx.ConnectError):
        ask(endpoint.base_url, "/api/version")


async def test_options_become_the_environment_of_one_of_our_own(
    running: Settings, on_path: Settings
) -> None:
    both = replace(on_path, address=running.address)
    profile = PROFILE.with_options(num_parallel=8, flash_attention=True, context_length=2048)
    async with engine("ollama", both).start(profile) as endpoint:
        assert endpoint.base_url != running.address.url
        seen = ask(endpoint.base_url, "/environment")
        assert seen["OLLAMA_NUM_PARALLEL"] == "8"
        assert seen["OLLAMA_FLASH_ATTENTION"] == "1"
        assert endpoint.facts["n_ctx_slot"] == 2048


async def test_a_model_that_was_not_pulled_says_how_to_get_it(running: Settings) -> None:
    with pytest.raises(EngineFailed, match="has no model 'absent'") as failed:
        async with engine("ollama", running).start(replace(PROFILE, model="absent")):
            pass
    assert failed.value.remedy == "Get it: ollama pull absent"


async def test_a_model_that_does_not_fit_is_out_of_memory(running: Settings) -> None:
    with pytest.raises(EngineFailed, match=r"more system memory \(48.2 GiB\)") as failed:
        async with engine("ollama", running).start(replace(PROFILE, model="huge")):
            pass
    assert failed.value.kind == "out_of_memory"


async def test_one_that_dies_at_its_start_says_why_at_once(on_path: Settings) -> None:
    broken = {**on_path.environment, "FAKE_OLLAMA": "broken"}
    began = time.monotonic()
    with pytest.raises(EngineFailed, match="permission denied"):
        async with engine("ollama", replace(on_path, environment=broken)).start(PROFILE):
            pass
    assert time.monotonic() - began < on_path.load_timeout_s


async def test_without_any_it_says_where_to_get_one(nowhere: Settings) -> None:
    with pytest.raises(EngineMissing, match="none runs at") as missing:
        engine("ollama", nowhere).version()
    assert "OLLAMA_HOST" in missing.value.remedy
    with pytest.raises(EngineMissing):
        async with engine("ollama", nowhere).start(PROFILE):
            pass


def test_its_version_is_that_of_the_server_or_of_the_program(
    running: Settings, on_path: Settings
) -> None:
    assert engine("ollama", running).version() == "0.12.6"
    assert engine("ollama", on_path).version() == "0.12.6"


def test_an_option_it_does_not_have_is_refused() -> None:
    with pytest.raises(EngineFailed, match="has no option 'num_ctx'") as failed:
        environment({"num_ctx": 1})
    assert failed.value.kind == "bad_option"
