"""`vllama tune` as a user types it, on a real llama.cpp."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from vllama.results.ledger import Ledger
from vllama.settings import Settings
from vllama.shelf import Shelf

pytestmark = pytest.mark.llamacpp
WORKLOAD = {
    "name": "tiny", "prompt_tokens": 16, "output_tokens": 8, "concurrency": 2, "duration_s": 0.5,
}  # fmt: skip


def command(toy: Path, tmp_path: Path, *words: str) -> list[str]:
    load = tmp_path / "tiny.json"
    load.write_text(json.dumps(WORKLOAD))
    head = [sys.executable, "-m", "vllama", "tune", str(toy), "--engine", "llamacpp"]
    return [*head, "--workload", str(load), "--json", *words]


def environment(settings: Settings) -> Mapping[str, str]:
    return settings.environment


def tune(
    toy: Path, settings: Settings, tmp_path: Path, *words: str
) -> tuple[dict[str, Any], subprocess.CompletedProcess[str]]:
    done = subprocess.run(
        command(toy, tmp_path, *words), env=environment(settings), capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done


def test_a_tune_measures_proves_and_saves(toy: Path, settings: Settings, tmp_path: Path) -> None:
    written, done = tune(toy, settings, tmp_path, "--trials", "3")
    assert written["trials"][0]["options"] == {}
    assert written["baseline"]["command"]
    assert written["verdict"]
    assert len({b["round"] for b in written["finals"]}) >= 2
    assert {"best", "throughput", "latency", "balanced"} == set(written["profiles"])
    best = Shelf(settings.home / "profiles").get(str(toy), "best")
    assert best.machine == written["machine"]["fingerprint"]
    assert "trial   1/3" in done.stderr
    kept = list(Ledger(settings.home / "ledger.jsonl").read())
    assert sum(r.kind == "trial" for r in kept) == 3
    assert any(r.kind == "measurement" for r in kept)
    again = json.loads((settings.home / "studies" / f"{written['study']}.json").read_text())
    assert again == written


def test_a_dry_run_starts_nothing(toy: Path, settings: Settings, tmp_path: Path) -> None:
    written, _ = tune(toy, settings, tmp_path, "--dry-run")
    assert written["dry_run"]
    assert {k["name"] for k in written["knobs"]} >= {"n_parallel"}
    assert written["ruled_out"]
    assert not (settings.home / "studies").exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_tune_keeps_the_best_and_leaves_no_engine(
    toy: Path, settings: Settings, tmp_path: Path, how: signal.Signals
) -> None:
    child = subprocess.Popen(
        command(toy, tmp_path, "--trials", "50"), env=environment(settings),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert child.stderr is not None
    for line in child.stderr:
        if line.startswith("trial   2"):
            break
    os.kill(child.pid, how)
    out, _ = child.communicate(timeout=60)
    assert child.returncode == 130
    written = json.loads(out)
    assert len(written["trials"]) >= 2
    assert Shelf(settings.home / "profiles").get(str(toy), "best").name == "best"


def test_killed_and_called_again_it_loses_no_finished_trial(
    toy: Path, settings: Settings, tmp_path: Path
) -> None:
    child = subprocess.Popen(
        command(toy, tmp_path, "--trials", "4"), env=environment(settings),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stderr is not None
    for line in child.stderr:
        if line.startswith("trial   2"):
            break
    child.kill()
    child.communicate()
    written, done = tune(toy, settings, tmp_path, "--trials", "4")
    assert "going on after 2 trials" in done.stderr
    assert len(written["trials"]) == 4
    assert len({json.dumps(t["options"]) for t in written["trials"]}) == 4
    fresh, done = tune(toy, settings, tmp_path, "--trials", "1", "--fresh")
    assert "going on" not in done.stderr
    assert len(fresh["trials"]) == 1
