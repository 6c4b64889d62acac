"""The command line itself: how it starts, what it prints where, how it exits."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from vllama import __version__
from vllama.cli import COMMANDS
from vllama.profile import Profile
from vllama.shelf import Shelf


def vllama(*words: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {
        "VLLAMA_HOME": str(home or "/nonexistent"),
        "PATH": "/usr/bin:/bin",
        "HOME": "/tmp",
    }
    return subprocess.run(
        [sys.executable, "-m", "vllama", *words],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def cpu_seconds(*words: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert vllama(*words).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def test_help_names_every_command() -> None:
    shown = vllama("--help").stdout
    assert all(name in shown for name in COMMANDS)


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_help_and_version_load_nothing_heavy(word: str) -> None:
    code = (
        "import sys; from vllama.cli import main\n"
        f"try: main([{word!r}])\n"
        "except SystemExit: pass\n"
        "heavy = {'pandas','matplotlib','optuna','fastapi','httpx','numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_help_costs_a_fraction_of_what_one_heavy_import_costs() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import optuna"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    one_import = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    assert cpu_seconds("--help") < one_import / 2


def test_version_is_the_packages() -> None:
    assert vllama("--version").stdout.strip() == f"vllama {__version__}"


def test_no_command_prints_the_help_and_is_wrong_use() -> None:
    done = vllama()
    assert done.returncode == 2
    assert "tune" in done.stderr


def test_an_unknown_command_is_wrong_use_and_lists_those_there_are() -> None:
    done = vllama("tuen", "model")
    assert done.returncode == 2
    assert "tune" in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    done = vllama(name, "--help")
    assert done.returncode == 0
    assert COMMANDS[name][1:30] in " ".join(done.stdout.split())


def test_a_foreseen_fault_is_a_message_and_a_remedy_without_a_traceback(tmp_path: Path) -> None:
    done = vllama("tune", "no-such-model", home=tmp_path)
    assert done.returncode == 1
    assert "no-such-model" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_profiles_are_listed_shown_exported_imported_and_removed(tmp_path: Path) -> None:
    profile = Profile(
        "best", "vllm", "org/model", {"max_num_seqs": 8, "enable_prefix_caching": True}
    )
    path = Shelf(tmp_path / "profiles").put(profile)
    copy = tmp_path / "copy.json"
    copy.write_text(path.read_text())

    assert "org/model" in vllama("profiles", home=tmp_path).stdout
    assert json.loads(vllama("profiles", "show", "best", home=tmp_path).stdout) == profile.to_json()
    exported = vllama("profiles", "export", "best", "--format", "vllm", home=tmp_path).stdout
    assert "max-num-seqs: 8" in exported
    assert "enable-prefix-caching: true" in exported
    assert vllama("profiles", "rm", "best", home=tmp_path).returncode == 0
    assert vllama("profiles", "show", "best", home=tmp_path).returncode == 1
    assert vllama("profiles", "import", str(copy), home=tmp_path).returncode == 0
    assert vllama("profiles", "show", "best", home=tmp_path).returncode == 0
