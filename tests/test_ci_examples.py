"""The example CI files, run by their own commands: the same again passes, slower does not.

The engine is the simulator, whose speed can be planted.
"""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import yaml

from vllama.profile import Profile

EXAMPLES = Path(__file__).parent.parent / "examples" / "ci"


class Runner:
    """Runs commands of a CI file in a folder that holds the profile under test."""

    def __init__(self, folder: Path, toy: Path, variables: dict[str, Any]) -> None:
        self.folder, self.toy = folder, toy
        mine = {"MODEL": str(toy), "PROFILE": "profile.json", "REQUESTS": "240"}
        self.environment = {
            **os.environ,
            **{k: str(v) for k, v in variables.items()},
            **mine,
            "VLLAMA_HOME": str(folder / "home"),
            "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }

    def use(self, times_slower: float) -> None:
        options = {"time_scale": 2.0 * times_slower}
        profile = Profile("production", "simulator", str(self.toy), options)
        (self.folder / "profile.json").write_text(json.dumps(profile.to_json()))

    def run(self, *commands: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-ec", "\n".join(commands)],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def github(tmp_path_factory: pytest.TempPathFactory, toy: Path) -> tuple[Runner, dict[str, str]]:
    """The workflow's commands by the names of their steps, the baseline made already."""
    document = yaml.safe_load((EXAMPLES / "github.yml").read_text())
    steps = {
        s["name"]: s["run"]
        for s in document["jobs"]["gate"]["steps"]
        if {"name", "run"} <= s.keys()
    }
    runner = Runner(tmp_path_factory.mktemp("github"), toy, document["env"])
    runner.use(1.0)
    made = runner.run(steps["Make the baseline"])
    assert made.returncode == 0, made.stderr
    return runner, steps


def gate(github: tuple[Runner, dict[str, str]], times_slower: float) -> tuple[int, Runner]:
    runner, steps = github
    runner.use(times_slower)
    code = runner.run(steps["Hold the change against the baseline"]).returncode
    assert runner.run(steps["Show the verdict"]).returncode == 0
    return code, runner


def test_the_same_again_is_no_regression(github: tuple[Runner, dict[str, str]]) -> None:
    code, runner = gate(github, 1.0)
    assert code == 0
    found = json.loads((runner.folder / "candidate.json").read_text())["gate"]
    assert found["verdict"] in ("pass", "undecided")
    assert not found["paired"]
    assert "## vllama bench" in (runner.folder / "summary.md").read_text()


def test_a_planted_slow_down_is_named_by_metric_and_workload(
    github: tuple[Runner, dict[str, str]],
) -> None:
    code, runner = gate(github, 1.3)
    assert code == 3
    found = json.loads((runner.folder / "candidate.json").read_text())["gate"]
    assert found["paired"]
    suite = ElementTree.parse(runner.folder / "gate.xml").getroot()
    failed = [c for c in suite.iter("testcase") if c.find("failure") is not None]
    assert "concurrent-10-short" in {c.get("classname") for c in failed}
    assert "TPOT p50" in {c.get("name") for c in failed}
    assert "regression" in (runner.folder / "gate.md").read_text()
    assert "Regression gate" in (runner.folder / "gate.html").read_text()


def test_another_machines_baseline_is_refused(github: tuple[Runner, dict[str, str]]) -> None:
    runner, steps = github
    path = runner.folder / "baseline.json"
    here = path.read_text()
    document = json.loads(here)
    document["machine"]["fingerprint"] = "1x-nvidia-h200-141gb"
    path.write_text(json.dumps(document))
    try:
        done = runner.run(steps["Hold the change against the baseline"])
    finally:
        path.write_text(here)
    assert done.returncode == 2
    assert "1x-nvidia-h200-141gb" in done.stderr


def test_the_gitlab_snippet_runs_too(
    github: tuple[Runner, dict[str, str]], tmp_path: Path, toy: Path
) -> None:
    document = yaml.safe_load((EXAMPLES / "gitlab.yml").read_text())
    runner = Runner(tmp_path, toy, {**document["variables"], "REPEAT": "2"})
    runner.environment["REQUESTS"] = "40"
    runner.use(1.0)
    for job in ("baseline", "performance"):
        done = runner.run(*document[job]["script"])
        assert done.returncode == 0, done.stderr
    kept = document["performance"]["artifacts"]
    names = [*kept["paths"], kept["reports"]["junit"]]
    assert all((tmp_path / name).exists() for name in names)
