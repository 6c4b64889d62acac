"""Nothing fails on macOS or Windows by an import or a path; shown with the platform faked."""

import asyncio
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from vllama.engines import metal, process
from vllama.engines.llamacpp_program import Program
from vllama.engines.llamacpp_server import Wheel, find
from vllama.errors import EngineMissing
from vllama.settings import Settings

# The libraries are imported as they are; then all of vllama again as if elsewhere.
IMPORT_ALL = """
import importlib, pkgutil, signal, sys
import vllama
# What runs inside vLLM's own process is no part of this one.
names = [m.name for m in pkgutil.walk_packages(vllama.__path__, "vllama.")
         if not m.name.endswith("__main__") and ".vllm_inside" not in m.name]
for name in names:
    importlib.import_module(name)
for system, gone in (("darwin", ""), ("win32", "fcntl grp pwd resource termios tty uvloop")):
    for name in [n for n in sys.modules if n == "vllama" or n.startswith("vllama.")]:
        del sys.modules[name]
    sys.platform = system
    sys.modules.update(dict.fromkeys(gone.split()))
    if system == "win32":
        for name in ("SIGKILL", "SIGCHLD", "SIGHUP", "SIGUSR1"):
            delattr(signal, name)
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            print(f"{system}: {name}: {error!r}")
"""


def test_every_module_can_be_imported_elsewhere() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_paths_of_one_system_are_read_only_where_their_absence_is_fine() -> None:
    """A path below /proc, /sys or /dev in a file that does not expect it to be missing."""
    root = Path(process.__file__).parent.parent
    bare = [
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if any(f'"/{top}' in path.read_text() for top in ("proc/", "sys/", "dev/"))
        and not any(w in path.read_text() for w in ("OSError", ".exists()", ".glob("))
    ]
    assert bare == []


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(platform, "mac_ver", lambda: ("15.2", ("", "", ""), "arm64"))


def with_metal(settings: Settings, home: Path) -> Settings:
    folder = home / ".venv-vllm-metal"
    (folder / "lib" / "python3.12" / "site-packages" / "vllm_metal").mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").touch()
    return replace(settings, environment={"HOME": str(home)})


@pytest.mark.usefixtures("mac")
def test_vllm_metal_is_found_where_its_installer_puts_it(
    settings: Settings, tmp_path: Path
) -> None:
    assert metal.python(replace(settings, environment={"HOME": str(tmp_path)})) is None
    there = with_metal(settings, tmp_path)
    assert metal.python(there) == tmp_path / ".venv-vllm-metal" / "bin" / "python"


@pytest.mark.usefixtures("mac")
@pytest.mark.parametrize("wrong", ["intel", "old", "linux"])
def test_vllm_metal_is_not_taken_where_it_cannot_run(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    there = with_metal(settings, tmp_path)
    if wrong == "intel":
        monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    elif wrong == "old":
        monkeypatch.setattr(platform, "mac_ver", lambda: ("14.7", ("", "", ""), "arm64"))
    else:
        monkeypatch.setattr(platform, "system", lambda: "Linux")
    assert metal.python(there) is None


def test_a_llama_server_on_the_path_comes_before_the_wheel(
    settings: Settings, tmp_path: Path
) -> None:
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\necho 'version: 6543 (abc)' >&2\n")
    program.chmod(0o755)
    found = find(replace(settings, environment={"PATH": str(tmp_path)}))
    assert found == Program(program)
    assert found.version() == "llama-server 6543"
    assert isinstance(find(replace(settings, environment={"PATH": ""})), Wheel)


def test_a_named_llama_server_must_exist(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(EngineMissing, match="there is no") as missing:
        find(replace(settings, llama_server=tmp_path / "absent"))
    assert "VLLAMA_LLAMA_SERVER" in missing.value.remedy


async def test_a_child_is_stopped_without_a_guard_of_two_processes() -> None:
    """Where the guard is one process, as on Windows, leaving still stops the command."""
    guard = Path(process.__file__).with_name("guard.py")
    faked = (
        "import subprocess, sys; real = subprocess.run\n"
        "import importlib.util as u\n"
        f"spec = u.spec_from_file_location('guard', {str(guard)!r})\n"
        "guard = u.module_from_spec(spec); spec.loader.exec_module(guard)\n"
        "def taskkill(command, **_):\n"
        "    assert command[:4] == ['taskkill', '/T', '/F', '/PID'], command\n"
        "    real(['kill', '-9', command[4]])\n"
        "subprocess.run = taskkill\n"
        "sys.platform = 'win32'\n"
        "print('code', guard.main(), flush=True)\n"
    )
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-c", faked, sys.executable, "-c",
        "import signal; print('up', flush=True); signal.alarm(60); signal.pause()",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert started.stdout is not None
    assert started.stdin is not None
    assert await started.stdout.readline() == b"up\n"
    started.stdin.close()
    rest, _ = await asyncio.wait_for(started.communicate(), 60)
    assert rest == b"code -9\n"
