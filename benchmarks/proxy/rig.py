"""What the benchmark stands on: the synthetic engine, a proxy on a core of its own, its time."""

import contextlib
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil

from vllama.engines.process import free_port

CORES = sorted(os.sched_getaffinity(0))
RATE = 50
START_S = 150.0


@contextlib.contextmanager
def upstream() -> Iterator[str]:
    """The synthetic engine, on the first core."""
    command = [sys.executable, "-m", "benchmarks.proxy.upstream", str(RATE)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def proxy(
    command: list[str],
    url: str,
    *,
    environment: Mapping[str, str] | None = None,
    cores: frozenset[int] = frozenset(CORES[-1:]),
) -> Iterator[tuple[str, psutil.Process | None]]:
    """One candidate, on the last core unless told; the engine itself for no command."""
    if not command:
        yield url, None
        return
    port, second = free_port(), free_port()
    words = [w.replace("PORT1", str(second)).replace("PORT", str(port)) for w in command]
    with tempfile.TemporaryDirectory() as home, (Path(home) / "log").open("w") as log:
        process = subprocess.Popen(
            words, stdout=log, stderr=log,
            env={**os.environ, "VLLAMA_HOME": home, **(environment or {})},
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )  # fmt: skip
        try:
            wait(f"http://127.0.0.1:{port}/", process, Path(home) / "log")
            yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
        finally:
            end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    """Ask it to stop; one that would rather finish its streams is killed."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Until it answers anything."""
    until_s = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < until_s:
        with contextlib.suppress(httpx.HTTPError):
            httpx.get(url, timeout=5, trust_env=False)
            return
        time.sleep(0.1)
    raise RuntimeError(log.read_text())


@contextlib.contextmanager
def cpu(process: psutil.Process | None) -> Iterator[list[float]]:
    """Processor seconds that a process and its children use meanwhile."""
    used: list[float] = []
    before = cpu_s(process)
    yield used
    used.append(cpu_s(process) - before)


def cpu_s(process: psutil.Process | None) -> float:
    """So far, to the nanosecond."""
    if process is None:
        return 0.0
    total = 0
    for each in (process, *process.children(recursive=True)):
        for task in Path(f"/proc/{each.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                total += int(task.read_text().split()[0])
    return total / 1e9


def machine() -> dict[str, Any]:
    """Where this was measured."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": found.group(1) if found else platform.processor(),
        "cores": len(CORES),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 1),
    }
