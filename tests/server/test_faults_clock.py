"""A wall clock that jumps hours back and forth below a real `vllama serve` and its engine."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from mmap import mmap
from pathlib import Path

import httpx
import pytest

from tests.server.fakes import until
from tests.server.faults import Simulated, leaves, nothing_left, served_again
from tests.server.running import chat, serving

HOURS_S = 3600
SHIM = Path(__file__).with_name("wall_clock.c")


class WallClock:
    """The clock of the processes that are started with `environment`."""

    def __init__(self, page: mmap, environment: dict[str, str]) -> None:
        self._page = page
        self.environment = environment

    @property
    def shift_s(self) -> int:
        return int.from_bytes(self._page[:8], sys.byteorder, signed=True)

    @shift_s.setter
    def shift_s(self, shift_s: int) -> None:
        self._page[:8] = shift_s.to_bytes(8, sys.byteorder, signed=True)

    def now_s(self) -> float:
        return time.time() + self.shift_s


@contextmanager
def wall_clock(folder: Path) -> Iterator[WallClock]:
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None or sys.platform != "linux":
        pytest.skip("moving a process's clock needs Linux and a C compiler")
    library, file = folder / "wall_clock.so", folder / "shift"
    build = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SHIM), "-ldl"]
    subprocess.run(build, check=True)
    file.write_bytes(bytes(8))
    descriptor = os.open(file, os.O_RDWR)
    with mmap(descriptor, 8) as page:
        os.close(descriptor)
        yield WallClock(page, {"LD_PRELOAD": str(library), "WALL_CLOCK_FILE": str(file)})


def seconds(text: object) -> float:
    """When an answer says that it was."""
    return datetime.fromisoformat(str(text)).timestamp()


async def test_a_clock_that_jumps_ends_no_stream_and_moves_no_deadline(
    simulated: Simulated, tmp_path: Path
) -> None:
    words = simulated.words(time_scale=20, answer_tokens=300)
    with wall_clock(tmp_path) as clock:
        async with (
            serving(
                *words, "--preload", settings=simulated.settings, environment=clock.environment
            ) as running,
            httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=300) as client,
            nothing_left(running, simulated.name),
        ):
            first = running.engine
            said: list[dict[str, object]] = []
            began_s = time.monotonic()
            async with running.stream(simulated.name, tokens=300) as response:
                each = response.aiter_lines()
                for clock.shift_s in (6 * HOURS_S, -6 * HOURS_S, 1000 * HOURS_S, 0):
                    async for line in each:
                        said.append(json.loads(line))
                        if abs(seconds(said[-1]["created_at"]) - clock.now_s()) < HOURS_S:
                            break
                assert not said[-1]["done"]  # it has seen every jump and goes on
                said += [json.loads(line) async for line in each]
            took_s = time.monotonic() - began_s
            assert said[-1]["done"] is True
            assert said[-1]["eval_count"] == 300
            for name in ("total_duration", "eval_duration", "load_duration"):
                assert 0 <= int(str(said[-1].get(name, 0))) / 1e9 <= took_s, name

            for clock.shift_s in (5 * HOURS_S, -5 * HOURS_S):
                await served_again(running, simulated.name)
                loaded = (await client.get("/api/ps")).json()["models"]
                assert 0 < seconds(loaded[0]["expires_at"]) - clock.now_s() <= 301
            # Nothing ran out and nothing was taken for hung.
            assert running.engine.pid == first.pid

            first.suspend()
            await until(lambda: any(p.pid != first.pid for p in leaves(running)))
            await served_again(running, simulated.name)

            clock.shift_s = 100 * HOURS_S
            short = chat(simulated.name, 1, keep_alive=1, stream=False)
            assert (await client.post("/api/chat", json=short)).status_code == 200
            clock.shift_s = -100 * HOURS_S
            await until(lambda: not leaves(running))
            await served_again(running, simulated.name)
            clock.shift_s = 0
