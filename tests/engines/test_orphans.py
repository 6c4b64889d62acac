"""Orphans are stopped, exactly they."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from vllama.engines import orphans

SLEEP = [sys.executable, "-IS", "-c", "import signal; signal.alarm(120); signal.pause()"]


@contextmanager
def sleeper(mark: str) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(SLEEP, env={**os.environ, orphans.MARK: mark})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def mark_of_a_vllama_that_is_gone() -> str:
    program = "from vllama.engines import orphans; print(*orphans.mark().values())"
    told = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return told.stdout.strip()


def test_what_a_killed_vllama_left_is_stopped() -> None:
    with sleeper(mark_of_a_vllama_that_is_gone()) as left:
        assert left.pid in orphans.stop()
        assert not psutil.pid_exists(left.pid)


def test_what_a_living_vllama_started_is_left_alone() -> None:
    with sleeper(orphans.mark()[orphans.MARK]) as mine, sleeper("") as strange:
        stopped = orphans.stop()
        assert mine.pid not in stopped
        assert strange.pid not in stopped
        assert mine.poll() is None


def test_a_namesake_of_the_owner_does_not_save_an_orphan() -> None:
    namespace, number, _ = orphans.mark()[orphans.MARK].rsplit(" ", 2)
    long_ago = psutil.boot_time()
    with sleeper(f"{namespace} {number} {long_ago:.2f}") as left:
        assert left.pid in orphans.stop()


def test_another_containers_engines_are_left_alone() -> None:
    number = mark_of_a_vllama_that_is_gone().split(" ")[1]
    with sleeper(f"pid:[1] {number} 0.00") as strange:
        assert strange.pid not in orphans.stop()
        assert strange.poll() is None
