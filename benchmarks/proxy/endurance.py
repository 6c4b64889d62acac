"""Does anything grow? Many streams through a real `vllama serve`, each tenth cut off in the middle.

`python -m benchmarks.proxy.endurance` writes results/proxy/endurance.json: resident memory,
open files and tasks of vllama at the start, after each tenth, and at rest in the end.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks.proxy.load import Heard, Target
from benchmarks.proxy.rig import machine, proxy, upstream
from vllama.uplink import Uplink

AT_ONCE = 100
TOKENS = 20
ABORTED = 10  # each tenth
REST_S = 30.0


@dataclass(frozen=True)
class State:
    """What vllama holds after so many streams.

    `files` are without connections: those of clients are theirs to close, and `uplinks`, to the
    engine, are kept for the next requests, never more than there were streams at once.
    """

    streams: int
    resident_bytes: int
    files: int
    uplinks: int
    tasks: int


@dataclass(frozen=True)
class Run:
    """States by time: the first after a warm-up, the last at rest."""

    states: list[State]
    finished: int
    aborted: int
    failed: int


def main() -> int:
    """Run it and write what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path("results/proxy/endurance.json"))
    args = parser.parse_args()
    run = endure(args.streams)
    document = {"format": 1, "machine": machine(), **asdict(run)}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(document, indent=1) + "\n")
    for state in run.states:
        print(
            f"{state.streams:6d} streams: {state.resident_bytes / 1e6:.1f} MB, "
            f"{state.files} files, {state.uplinks} uplinks, {state.tasks} tasks"
        )
    print(f"{run.finished} finished, {run.aborted} cut off, {run.failed} failed")
    return 1 if run.failed else 0


def endure(streams: int) -> Run:
    """So many streams, after a warm-up of a tenth as many."""
    with upstream() as url:
        command = [sys.executable, "-m", "vllama", "serve", "--port", "PORT", "--attach"]
        with proxy([*command, f"m={url}"], url) as (target, process):
            assert process is not None
            return asyncio.run(_endure(target, process, streams))


async def _endure(url: str, process: psutil.Process, streams: int) -> Run:
    target = Target(url, "ollama")
    await _rounds(target, max(AT_ONCE, streams // 10))
    first = await _at_rest(url, process, 0)
    states, ends = [first], Counter[str]()
    for done in range(streams // 10, streams + 1, streams // 10):
        ends += await _rounds(target, streams // 10)
        states.append(await _state(url, process, done))
    states.append(await _at_rest(url, process, streams))
    return Run(states, ends["finished"], ends["aborted"], ends["failed"])


async def _rounds(target: Target, streams: int) -> Counter[str]:
    """How so many streams ended, some of them at once."""
    ends = Counter[str]()
    for begun in range(0, streams, AT_ONCE):
        numbers = range(begun, min(begun + AT_ONCE, streams))
        ends.update(await asyncio.gather(*(_one(target, n % ABORTED == 0) for n in numbers)))
    return ends


async def _one(target: Target, cut_off: bool) -> str:
    heard = Heard()
    listener, link = await target.send(heard, stream=True, tokens=TOKENS)
    if not cut_off:
        error = await listener.ended
        return "finished" if error is None and listener.status == 200 else "failed"
    await listener.first.wait()
    assert isinstance(link, Uplink)
    link.abort()
    return "aborted"


async def _at_rest(url: str, process: psutil.Process, streams: int) -> State:
    """When nothing has changed for a second: what was cut off has been cleared away."""
    deadline_s = time.monotonic() + REST_S
    before = await _state(url, process, streams)
    while time.monotonic() < deadline_s:
        await asyncio.sleep(1)
        state = await _state(url, process, streams)
        if (state.files, state.tasks) == (before.files, before.tasks):
            return state
        before = state
    return before


async def _state(url: str, process: psutil.Process, streams: int) -> State:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        page = (await client.get(f"{url}/metrics")).text
    tasks = next(line for line in page.splitlines() if line.startswith("vllama_tasks "))
    port = int(url.rpartition(":")[2])
    connections = [c for c in process.net_connections("tcp") if c.raddr]
    clients = sum(c.laddr.port == port for c in connections)
    return State(
        streams, process.memory_info().rss, process.num_fds() - len(connections),
        len(connections) - clients, int(float(tasks.split()[1])),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
