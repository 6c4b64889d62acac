"""What `vllama profiles export` writes is used by those for whom it is written."""

import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.conftest import installed
from vllama.cli.profile_formats import FORMATS
from vllama.engines import probe, process
from vllama.engines.llamacpp_log import explain
from vllama.engines.vllm import Vllm
from vllama.engines.vllm_dry_run import DryRun, Verdict
from vllama.machine import Machine
from vllama.profile import Profile, Scalar
from vllama.settings import Settings
from vllama.store import names

TUNED: dict[str, Scalar] = {
    "max_num_seqs": 24, "max_num_batched_tokens": 1024, "max_model_len": 2048,
    "enable_prefix_caching": False, "long_prefill_token_threshold": 512,
    "speculative_config": '{"method": "ngram", "num_speculative_tokens": 3}',
}  # fmt: skip
FAKE = Path(__file__).parent.parent / "engines" / "fake_llama_server.py"


@pytest.fixture(scope="module")
async def dry(toy: Path, session_settings: Settings, machine: Machine) -> AsyncIterator[DryRun]:
    engine = installed("vllm", session_settings)
    assert isinstance(engine, Vllm)
    profile = engine.default(names.resolve(str(toy), session_settings), machine)
    async with DryRun(engine, profile) as helper:
        yield helper


def on_vllm(toy: Path) -> Profile:
    return Profile("best", "vllm", str(toy), TUNED, engine_version="0.32.0")


def is_as_tuned(verdict: Verdict) -> None:
    assert verdict.reason == ""
    effective = verdict.effective
    assert effective["max_num_seqs"] == 24
    assert effective["max_num_batched_tokens"] == 1024
    assert effective["max_model_len"] == 2048
    assert effective["enable_prefix_caching"] is False
    assert effective["long_prefill_token_threshold"] == 512
    assert effective["num_speculative_tokens"] == 3


@pytest.mark.parametrize("form", FORMATS)
def test_every_form_tells_the_environment_that_was_tuned(tmp_path: Path, form: str) -> None:
    alone = replace(on_vllm(tmp_path), environment={"VLLM_ENABLE_V1_MULTIPROCESSING": "0"})
    assert re.search("VLLM_ENABLE_V1_MULTIPROCESSING[\"']?[:=] ?[\"']?0", FORMATS[form](alone))


@pytest.mark.vllm
async def test_vllm_takes_the_config_file_for_what_was_tuned(
    dry: DryRun, toy: Path, tmp_path: Path
) -> None:
    path = tmp_path / "best.yaml"
    path.write_text(FORMATS["vllm"](on_vllm(toy)))
    is_as_tuned(await dry.told(["--config", str(path)]))


@pytest.mark.vllm
@pytest.mark.parametrize("form", ["command", "env", "systemd"])
async def test_vllm_takes_every_command_for_what_was_tuned(
    dry: DryRun, toy: Path, form: str
) -> None:
    is_as_tuned(await dry.told(words(form, on_vllm(toy))))


def words(form: str, profile: Profile) -> list[str]:
    """What a program is given after `vllm serve` by who reads the form."""
    text = FORMATS[form](profile)
    if form == "env":
        script = (
            f'set -a\n{text}\neval "set -- $VLLAMA_MODEL $VLLAMA_ENGINE_ARGS"\nprintf "%s\\0" "$@"'
        )
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
        return done.stdout.split("\0")[:-1]
    if form == "systemd":
        (line,) = [w for w in text.splitlines() if w.startswith("ExecStart=")]
        every = shlex.split(line.removeprefix("ExecStart="))[1:]
        return every[every.index("serve") + 1 :]
    every = shlex.split(text)
    return every[every.index("serve") + 1 :]


@pytest.mark.parametrize("engine", ["vllm", "llamacpp"])
def test_systemd_finds_no_fault_with_the_unit(tmp_path: Path, engine: str) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze")
    quoted: dict[str, Scalar] = {"n_parallel": 4, "chat_template": 'a "100%" $x'}
    options = TUNED if engine == "vllm" else quoted
    profile = Profile("best", engine, "/models/a b", options, {"GREETING": "100% of $it"})
    unit = tmp_path / "model.service"
    unit.write_text(FORMATS["systemd"](profile))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    mine = [line for line in done.stderr.splitlines() if "model.service" in line]
    assert mine == [], done.stderr


@pytest.fixture
def spaced(toy: Path, tmp_path: Path) -> Path:
    """The toy under a name that a shell would take apart."""
    link = tmp_path / "a b.gguf"
    link.symlink_to(next(toy.glob("*f16.gguf")))
    return link


async def test_the_exported_command_of_llamacpp_serves(
    spaced: Path, tmp_path: Path, settings: Settings
) -> None:
    """The program reads its flags by hand here, and the wheel does the work."""
    installed("llamacpp", settings)
    program = tmp_path / "llama-server"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {FAKE} "$@"\n')
    program.chmod(0o755)
    options: dict[str, Scalar] = {
        "n_parallel": 2, "n_ctx": 2048, "threads": 1, "kv_unified": True, "cont_batching": True,
        "flash_attn": "auto", "cache_type_k": "q8_0",
    }  # fmt: skip
    line = FORMATS["command"](Profile("best", "llamacpp", str(spaced), options))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        root = f"http://127.0.0.1:{free.getsockname()[1]}"
    launch = process.launch(
        ["sh", "-c", f"exec {line} --host 127.0.0.1 --port {root.rpartition(':')[2]} --slots"],
        name="exported", environment={"PATH": f"{tmp_path}:/usr/bin:/bin"}, explain=explain,
    )  # fmt: skip
    async with launch as child, httpx.AsyncClient(base_url=root, timeout=30) as client:
        await process.wait_ready(
            child, lambda: probe.is_healthy(root), stall_s=30, what="the exported command"
        )
        assert len((await client.get("/slots")).json()) == 2
        reply = await client.post("/v1/completions", json={"prompt": "ice", "max_tokens": 3})
        assert reply.json()["usage"]["completion_tokens"] == 3
