"""A tuner that is killed at random moments and called again: what it had finished must be there.

    python -m tests.tuner.killed --kills 20

As a program with a file it is the tuner itself, on the simulator, one line for each trial.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

import psutil

from tests.conftest import isolated
from tests.tuner.simulated import MACHINE, subject
from vllama.bench.rig import Rig
from vllama.bench.workload import Workload
from vllama.engines.simulator import Simulator
from vllama.profile import Profile
from vllama.tuner import journal, samplers, study
from vllama.tuner.objective import Objective
from vllama.tuner.subject import Subject
from vllama.tuner.trial import Trial
from vllama.tuner.tuning import Budget, Tuning

LOAD = Workload("short", 16, 8, concurrency=2, duration_s=0.1)
LONGEST_S = 60.0


@dataclass
class Report:
    """What was told, by number, over all lives; and what the study held in the end."""

    kills: int = 0
    told: dict[int, str] = field(default_factory=dict)
    kept: dict[int, str] = field(default_factory=dict)
    left_behind: int = 0
    moments_s: list[float] = field(default_factory=list)

    @property
    def lost(self) -> list[int]:
        """Trials that had been finished and are not there, or are others now."""
        return [n for n, options in self.told.items() if self.kept.get(n) != options]


def problem() -> Subject:
    default = Profile("default", "simulator", "toy", machine=MACHINE.fingerprint)
    return Subject(default, (LOAD,), Objective("throughput"), subject().space)


def survive(kills: int, folder: Path, seed: int = 0) -> Report:
    """Kill a tuner `kills` times at moments drawn anew each time, then look what is there."""
    draw, report = random.Random(seed), Report()
    for _ in range(kills):
        moment_s = draw.uniform(0.0, 3.0)
        report.moments_s.append(moment_s)
        _one_life(folder, moment_s, report)
    about = problem()
    sampler = samplers.make("random", about.space, 0, about.objective)
    file = str(folder / "study.db")
    with study.opened(file, about.study, about.space, about.objective, sampler) as found:
        report.kept = {t.number: _words(t) for t in found.trials()}
    return report


def _one_life(folder: Path, moment_s: float, report: Report) -> None:
    """Let it come to its first trial of this life, or almost, and kill it after `moment_s`."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.tuner.killed", "--file", str(folder)],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    lines: Queue[str] = Queue()
    said = child.stdout
    assert said is not None

    def read() -> None:
        for line in said:
            lines.put(line)

    reader = Thread(target=read)
    reader.start()
    # From when it is at work: a kill during the imports tests nothing.
    assert lines.get(timeout=LONGEST_S).startswith("ready")
    time.sleep(moment_s)
    below = psutil.Process(child.pid).children(recursive=True)
    child.kill()
    child.wait()
    report.kills += 1
    _, alive = psutil.wait_procs(below, timeout=15)
    report.left_behind += len(alive)
    reader.join()
    while True:
        try:
            told = lines.get_nowait()
        except Empty:
            return
        if told.endswith("}\n"):
            trial = json.loads(told)
            report.told[trial["number"]] = trial["options"]


def _words(trial: Trial) -> str:
    return json.dumps([trial.state, dict(trial.options), len(trial.measurements)])


async def _tune(folder: Path) -> None:
    about = problem()
    sampler = samplers.make("random", about.space, 0, about.objective)
    file = str(folder / "study.db")
    rig = Rig(Simulator(replace(isolated(folder), load_timeout_s=60.0)))
    with study.opened(file, about.study, about.space, about.objective, sampler) as kept:
        tuning = Tuning(kept, rig, about, MACHINE, Budget(1000))
        print("ready", flush=True)
        async for event in tuning.run():
            if isinstance(event, Trial):
                told = {"number": event.number, "options": _words(event)}
                print(json.dumps(told), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    args = parser.parse_args()
    if args.file:
        with journal.kept(args.file / "journal"):
            asyncio.run(_tune(args.file))
        return
    with tempfile.TemporaryDirectory() as folder:
        report = survive(args.kills, Path(folder))
    print(f"{report.kills} kills, {len(report.told)} trials told, {len(report.lost)} lost, "
          f"{report.left_behind} processes left behind")  # fmt: skip
    sys.exit(bool(report.lost or report.left_behind))


if __name__ == "__main__":
    main()
