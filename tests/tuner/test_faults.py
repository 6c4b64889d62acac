"""Engines that break in every way that is known: each is told for what it is, and nothing stays.

The engine is the simulator, a real child process that breaks as its options say.
"""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from tests.tuner import killed
from tests.tuner.simulated import MACHINE, SimulatedBench, slots
from tests.tuner.simulated import subject as simulated_subject
from vllama.bench.rig import Rig, Session
from vllama.bench.workload import Workload
from vllama.engines.simulator import Simulator
from vllama.errors import EngineFailed
from vllama.profile import Profile, Scalar
from vllama.settings import Settings
from vllama.tuner import journal, samplers, study, watchdog
from vllama.tuner.attempt import Rung, attempt
from vllama.tuner.objective import Objective
from vllama.tuner.released import Released
from vllama.tuner.study import Ask
from vllama.tuner.subject import Subject
from vllama.tuner.trial import Trial
from vllama.tuner.tuning import Budget, Tuning

LOAD = Workload("short", 16, 8, concurrency=2, timeout_s=120)


@dataclass(frozen=True, slots=True)
class Fault:
    """Options that break the simulator; what the trial must then say."""

    name: str
    options: dict[str, Scalar]
    state: str
    kind: str = ""
    phase: str = ""


FAULTS = (
    Fault("memory at load", {"fault_out_of_memory": "load"}, "failed", "out_of_memory", "load"),
    Fault("memory at profiling", {"fault_out_of_memory": "profile"}, "failed", "out_of_memory",
          "profile"),
    Fault("memory at graphs", {"fault_out_of_memory": "graph"}, "failed", "out_of_memory", "graph"),
    Fault("memory under load", {"fault_out_of_memory": "run"}, "failed", "out_of_memory", "run"),
    Fault("exit while starting", {"fault_start": "exit"}, "failed", "crash", "load"),
    Fault("exit with status 0", {"fault_start": "exit0"}, "failed", "crash", "load"),
    Fault("silence while starting", {"fault_start": "hang"}, "failed", "timeout"),
    Fault("talk for ever", {"fault_start": "unhealthy"}, "failed", "timeout"),
    Fault("fatal line and no end", {"fault_start": "fatal"}, "failed", "out_of_memory"),
    Fault("death under load", {"fault_crash_after": 5}, "failed", "crash", "run"),
    Fault("death in mid-answer", {"fault_crash_after_tokens": 40}, "failed", "crash", "run"),
    Fault("hang between requests", {"fault_hang_after": 5}, "failed", "hang", "run"),
    Fault("hang in mid-answer", {"fault_hang_after_tokens": 60}, "failed", "hang", "run"),
    Fault("every fifth request refused", {"fault_status": 500, "fault_status_every": 5},
          "infeasible", "slo"),
    Fault("deaf, with a deaf child", {"fault_ignore_sigterm": True, "fault_orphan": True},
          "complete"),
    Fault("slow, but alive", {"fault_start_s": 2.5}, "complete"),
    Fault("an unknown option", {"no_such_option": 1}, "failed", "bad_option", "parse"),
)  # fmt: skip


def problem() -> Subject:
    default = Profile("default", "simulator", "toy", machine=MACHINE.fingerprint)
    return Subject(default, (LOAD,), Objective("throughput"), simulated_subject().space)


def rig(settings: Settings, patience_s: float = 60.0) -> Rig:
    """A start of the simulator takes half a second, on a busy machine many."""
    return Rig(Simulator(replace(settings, load_timeout_s=patience_s)))


async def tried(on: Rig, options: dict[str, Scalar]) -> Trial:
    return await attempt(on, problem(), Ask(1, options, "search"), (Rung(0.5),))


def ours() -> set[int]:
    return {p.pid for p in psutil.Process().children(recursive=True)}


def stubborn() -> set[int]:
    """Grandchildren that left their parents, of this very test's making."""
    found = set()
    for process in psutil.process_iter(["cmdline", "pid"]):
        if "signal.SIG_IGN); time.sleep(600)" in " ".join(process.info["cmdline"] or ()):
            found.add(process.info["pid"])
    return found


@pytest.fixture(autouse=True)
def an_alert_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "GRACE_S", 1.0)
    monkeypatch.setattr(watchdog, "QUIET_S", 3.0)
    monkeypatch.setattr(watchdog, "POLL_S", 0.1)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)
async def test_a_fault_is_told_for_what_it_is_and_nothing_of_it_stays(
    fault: Fault, settings: Settings
) -> None:
    before, deaf = ours(), stubborn()
    trial = await tried(rig(settings, 2.0 if fault.kind == "timeout" else 60.0), fault.options)
    assert trial.state == fault.state, trial.failure
    if fault.kind:
        assert trial.failure is not None
        assert trial.failure.kind == fault.kind
    if fault.phase:
        assert trial.failure is not None
        assert trial.failure.phase == fault.phase
    assert ours() <= before
    assert stubborn() <= deaf


async def test_a_taken_port_is_tried_once_more(settings: Settings, tmp_path: Path) -> None:
    trial = await tried(rig(settings), {"fault_taken_port": str(tmp_path / "taken")})
    assert trial.complete


async def test_what_is_not_transient_is_not_tried_again(settings: Settings, tmp_path: Path) -> None:
    with journal.kept(tmp_path / "journal"):
        await tried(rig(settings), {"fault_out_of_memory": "load"})
        await tried(rig(settings), {"fault_taken_port": str(tmp_path / "taken")})
    events = [json.loads(line) for line in (tmp_path / "journal").read_text().splitlines()]
    assert [e["event"] for e in events] == ["start", "end", "start", "again", "up", "end"]
    assert events[1]["why"].startswith("CUDA out of memory in phase load")
    assert events[-1]["state"] == "complete"


async def test_a_fatal_line_ends_a_start_long_before_silence_would(settings: Settings) -> None:
    trial = await tried(rig(settings, 600.0), {"fault_start": "fatal"})
    assert trial.failure is not None
    assert trial.failure.kind == "out_of_memory"


async def test_a_study_goes_on_through_every_fault_and_loses_no_trial(
    settings: Settings,
) -> None:
    each = {f.kind: f for f in FAULTS if f.state == "failed" and f.kind != "timeout"}
    faults = list(each.values())
    bench, before = Injected(rig(settings), faults), ours()
    about = replace(problem(), workloads=(replace(LOAD, duration_s=0.4),))
    sampler = samplers.make("random", about.space, 1, about.objective)
    with study.opened(study.MEMORY, about.study, about.space, about.objective, sampler) as kept:
        tuning = Tuning(kept, bench, about, MACHINE, Budget(2 * len(faults)))
        async for _ in tuning.run():
            pass
        trials = tuning.trials
    assert len(trials) >= 2 * len(faults)
    fallen = [t.failure.kind for t in trials if t.failure]
    assert fallen == [f.kind for f in faults]
    assert len(set(fallen)) == 4
    assert ours() <= before


@dataclass
class Injected:
    """Every second start breaks, in each way once; the options of the search are not passed on."""

    rig: Rig
    faults: list[Fault]
    starts: int = 0

    @asynccontextmanager
    async def started(self, profile: Profile) -> AsyncIterator[Session]:
        turn, breaks = divmod(self.starts, 2)
        self.starts += 1
        options = self.faults[turn].options if breaks and turn < len(self.faults) else {}
        plain = Profile(profile.name, "simulator", profile.model, options)
        async with self.rig.started(plain) as session:
            yield session


async def test_no_start_before_the_memory_of_the_last_engine_is_back() -> None:
    free = [100, 80]
    readings = iter([[100, 80], [40, 80], [40, 80], [99, 80]])
    bench = Released(SimulatedBench(lambda o: 1.0 + slots(o)), lambda: next(readings, free))
    async with bench.started(Profile("a", "simulator", "toy")):
        pass
    assert next(readings, None) is None


async def test_memory_that_never_comes_back_is_told_before_anything_is_started() -> None:
    readings = iter([[100]])
    inner = SimulatedBench(lambda o: 1.0 + slots(o))
    bench = Released(inner, lambda: next(readings, [50]), wait_s=0.0)
    with pytest.raises(EngineFailed, match="still occupied"):
        async with bench.started(Profile("a", "simulator", "toy")):
            pass
    assert inner.launched == []


async def test_a_load_that_is_only_slow_is_no_hang(settings: Settings) -> None:
    began = time.monotonic()
    trial = await tried(rig(settings), {"time_scale": 60.0})
    assert trial.complete, trial.failure
    assert time.monotonic() - began > watchdog.GRACE_S


def test_killed_at_any_moment_a_tuner_loses_no_finished_trial(tmp_path: Path) -> None:
    """Five times here; `python -m tests.tuner.killed --kills 20` does more."""
    report = killed.survive(5, tmp_path, seed=5)
    assert report.kills == 5
    assert report.told
    assert report.lost == []
    assert report.left_behind == 0
