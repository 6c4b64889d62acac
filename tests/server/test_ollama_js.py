"""The official JavaScript client, where node is installed and the package can be had."""

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import CACHE
from tests.server.house import House

pytestmark = pytest.mark.llamacpp
PROGRAM = Path(__file__).parent / "ollama_js.mjs"
PACKAGE = "ollama@0.6.3"


@pytest.fixture(scope="session")
def package() -> Path:
    """A folder with the client installed, kept between runs."""
    npm = shutil.which("npm")
    if shutil.which("node") is None or npm is None:
        pytest.skip("node and npm are not installed")
    folder = CACHE / "npm"
    if not (folder / "node_modules" / "ollama").exists():
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), PACKAGE],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        if done.returncode:
            pytest.skip(f"npm cannot install {PACKAGE}: {done.stderr[-200:]}")
    return folder


async def test_the_javascript_client_chats_embeds_and_aborts(
    ollama_like: House, package: Path
) -> None:
    program = package / PROGRAM.name
    program.write_text(PROGRAM.read_text())
    done = await asyncio.to_thread(
        subprocess.run, ["node", str(program), ollama_like.url],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["same"]
    assert told["vectors"] == 2
    assert "m:latest" in told["models"]
    assert told["aborted"]
    assert told["error"] == "model 'nope' not found"
    # The engine is free again at once.
    answer = await ollama_like.post(
        "/api/generate", {"model": "m", "prompt": "x", "options": {"num_predict": 1}}
    )
    assert answer.status_code == 200
