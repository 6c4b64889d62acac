"""One study, several workers: processes on one storage, as hosts would share it."""

import itertools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.server.fakes import until
from tests.tuner.simulated import subject
from vllama.errors import UsageError
from vllama.tuner import samplers, storages, study
from vllama.tuner.study import Ask, Study
from vllama.tuner.trial import Trial, key

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(params=["sqlite", "journal"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{request.param}:///{tmp_path}/study"


def worker(url: str, role: str, trials: int = 9) -> "subprocess.Popen[str]":
    words = [sys.executable, "-m", "tests.tuner.shared_worker", url, str(trials), role]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)


def kept(url: str) -> list[Trial]:
    about = subject()
    sampler = samplers.make("random", about.space, 1, about.objective)
    with study.opened(url, about.study, about.space, about.objective, sampler) as found:
        return found.trials()


def test_workers_share_the_trials_and_one_judges(url: str) -> None:
    running = [worker(url, role) for role in ("main", "worker", "worker")]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    told = [process.communicate(timeout=120)[0].splitlines() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert told[0][-1] == "won 10"
    numbers = sorted(int(line.split()[0]) for lines in told for line in lines if line[0] != "w")
    trials = kept(url)
    assert numbers == [t.number for t in trials]
    own = [key(t.options) for t in trials if t.origin != "control"]
    assert len(own) == len(set(own)) >= 9
    assert sum(bool(lines) for lines in told) >= 2


def two(url: str) -> tuple[Study, Study]:
    about = subject()
    made = []
    for _ in range(2):
        sampler = samplers.make("tpe", about.space, 1, about.objective)
        opened = study.opened(url, about.study, about.space, about.objective, sampler)
        made.append(opened.__enter__())
    return made[0], made[1]


def one_in_hand(url: str) -> tuple[Study, Study, Ask]:
    """What the first of two was asked to try."""
    first, second = two(url)
    asked = first.ask()
    assert asked is not None
    return first, second, asked


def test_what_one_has_in_hand_no_other_is_given(url: str) -> None:
    first, second = two(url)
    asked = [each.ask() for each in (first, second, first, second)]
    assert len({key(a.options) for a in asked if a}) == 4
    assert second.under_way == 4


def test_what_is_planted_is_given_once_however_many_ask(url: str) -> None:
    studies = [*two(url), *two(url)]
    planted = list(itertools.islice(subject().space.combinations(), 32))
    studies[0].plant({"seed": planted})

    def asked(study: Study) -> list[int]:
        return [ask.number for _ in planted[::4] if (ask := study.ask())]

    with ThreadPoolExecutor(len(studies)) as threads:
        given = [number for each in threads.map(asked, studies) for number in each]
    assert sorted(given) == list(range(len(planted)))


def test_what_a_worker_measured_is_kept_though_it_was_thought_dead(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept, other, mine = one_in_hand(url)
    with monkeypatch.context() as patched:
        patched.setattr(study, "GRACE_S", -1.0)
        other.free_stale()
    told = slept.tell(Trial(mine.number, mine.options, "complete"))
    assert told.number != mine.number
    assert [t.options for t in kept(url)] == [mine.options]


def test_the_trial_of_a_dead_worker_is_free_again(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, alive, lost = one_in_hand(url)
    alive.free_stale()
    assert alive.under_way == 1
    monkeypatch.setattr(study, "GRACE_S", -1.0)
    again = alive.ask()
    assert again is not None
    assert key(again.options) == key(lost.options)


async def test_a_worker_that_shows_that_it_lives_keeps_its_trial(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, other = two(url)
    assert slow.ask() is not None
    before = other._running()[0].user_attrs["alive_at"]
    monkeypatch.setattr(study, "BEAT_S", 0.01)
    async with slow.alive():
        await until(lambda: other._running()[0].user_attrs["alive_at"] > before)


def test_a_shared_study_can_be_forgotten(url: str) -> None:
    first, _ = two(url)
    assert first.ask() is not None
    storages.forget(url, subject().study)
    assert kept(url) == []


@pytest.mark.parametrize("address", ["nothing://here", "postgresql://user:secret@127.0.0.1:1/x"])
def test_a_storage_that_is_not_there_is_told_without_its_password(address: str) -> None:
    with pytest.raises(UsageError) as refused:
        storages.shared(address)
    assert "secret" not in f"{refused.value.message} {refused.value.remedy}"
