"""`make bench-client`: is the load generator ever the limit?

Targets 7 to 10 of docs/benchmarking.md, against a server whose truth is known, with the same
work done by an httpx and an aiohttp client in the same run, and by `bare`: sockets and a stamp
for each read, below which no client can cost less on this machine. The server has one core, the
client the other. Each figure is the median of the repeats; exit code 1 when a target is missed.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.client import others
from vllama.toy import make

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "client"
# (streams, tokens/s of each, seconds): 5k and 10k chunks/s in step, as a batching engine writes.
PACES = ((100, 50, 2.0), (200, 50, 2.0))
CLIENTS = ("bare", "vllama", "aiohttp", "httpx")


@dataclass(frozen=True, slots=True)
class Check:
    """One target and what was reached."""

    number: int
    what: str
    reached: float
    allowed: float
    unit: str

    @property
    def met(self) -> bool:
        return self.reached <= self.allowed

    def line(self) -> str:
        verdict = "met   " if self.met else "MISSED"
        return (
            f"{verdict} {self.number:>2}  {self.what}: {self.reached:.2f} {self.unit} "
            f"(at most {self.allowed:g})"
        )


@contextmanager
def pacer(gap_s: float, tokens: int) -> Iterator[str]:
    """The server, on core 0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        sys.executable,
        "-m",
        "benchmarks.client.pacer",
        str(port),
        str(gap_s),
        str(tokens),
        "0",
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def measured(script: str, *words: str) -> dict[str, Any]:
    """What a script prints about one run, on the last core."""
    core = str(max(os.sched_getaffinity(0)))
    told = subprocess.run(
        [sys.executable, "-m", f"benchmarks.client.{script}", *words, core],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    result: dict[str, Any] = json.loads(told.stdout)
    return result


def middle(runs: list[dict[str, Any]]) -> dict[str, float]:
    """The median of every figure."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def streamed(repeats: int) -> Iterator[dict[str, Any]]:
    """Every client at every pace, in turns."""
    for streams, rate, seconds in PACES:
        tokens = int(rate * seconds)
        runs: dict[str, list[dict[str, Any]]] = {client: [] for client in CLIENTS}
        with pacer(1 / rate, tokens) as url:
            for repeat in range(repeats):
                for client in CLIENTS if repeat % 2 == 0 else CLIENTS[::-1]:
                    runs[client].append(measured("load", client, url, str(streams)))
                    time.sleep(0.2)
        for client in CLIENTS:
            yield {
                "client": client,
                "chunks_per_s": streams * rate,
                "asked": streams * tokens,
                **middle(runs[client]),
            }


def checks(rows: list[dict[str, Any]], dispatch: dict[str, float]) -> list[Check]:
    """The targets, held against what vllama's client reached."""
    ours = [row for row in rows if row["client"] == "vllama"]
    slow, fast = ours
    cpu = [row["running_us"] + row["reading_us"] for row in ours]
    wrong = sum(
        abs(row["tokens"] - row["asked"]) + abs(row["chunks"] - row["asked"]) for row in ours
    )
    return [
        Check(7, "client CPU per streamed chunk, reading included", max(cpu), 15, "us"),
        Check(8, "error of gaps at 5k chunks/s, p99", slow["gap_error_p99_ms"], 1, "ms"),
        Check(8, "error of gaps at 10k chunks/s, p99", fast["gap_error_p99_ms"], 5, "ms"),
        Check(9, "dispatch delay at 200 requests/s, p99", dispatch["delay_p99_ms"], 1, "ms"),
        Check(10, "tokens and chunks miscounted", wrong, 0, ""),
    ]


def over_the_floor(rows: list[dict[str, Any]]) -> str:
    """What a chunk costs over sockets and a stamp, which depends on the machine alone."""
    told = []
    for rate in dict.fromkeys(row["chunks_per_s"] for row in rows):
        cost = {
            row["client"]: row["running_us"] + row["reading_us"]
            for row in rows
            if row["chunks_per_s"] == rate
        }
        over = cost["vllama"] - cost["bare"]
        told.append(f"{over:+.1f} us over the bare reader's {cost['bare']:.1f} at {rate} chunks/s")
    return f"A chunk costs vllama's client {', '.join(told)}."


def beside(others_too: bool) -> list[dict[str, Any]]:
    """The other tools at the lower pace; each row a run, or why there is none."""
    streams, rate, seconds = PACES[0]
    if not others_too:
        return []
    missing = others.install_guidellm()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "toy"
        make(home, parameters=2_000_000)
        rows = []
        for tool in (others.VLLM, others.GUIDELLM):
            if tool is others.GUIDELLM and missing:
                rows.append({"client": tool.name, "failed": missing})
                continue
            with pacer(1 / rate, int(rate * seconds)) as url:
                work = others.Work(url, streams, int(rate * seconds), home)
                rows.append(others.run(tool, work))
    return rows


def beside_lines(rows: list[dict[str, Any]]) -> str:
    """Markdown of the other tools."""
    lines = [
        "| tool | CPU us/chunk | chunks/s/core | p99 gap sent ms | told ms | tokens exact |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        if "failed" in row:
            lines.append(f"| {row['client']} | did not run: {row['failed']} | | | | |")
            continue
        exact = "yes" if row["tokens"] == row["asked"] else "no"
        lines.append(
            f"| {row['client']} | {row['cpu_us']:.1f} | {1e6 / row['cpu_us']:,.0f} "
            f"| {row['gap_p99_true_ms']:.2f} | {row['gap_p99_told_ms']:.2f} | {exact} |"
        )
    return "\n".join(lines)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| client | chunks/s | CPU us/chunk | chunks/s/core | late p50 ms | late p99 ms "
        "| gap error p99 ms | tokens exact |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        cpu = row["running_us"] + row["reading_us"]
        exact = "yes" if row["tokens"] == row["chunks"] == row["asked"] else "no"
        lines.append(
            f"| {row['client']} | {row['chunks_per_s']} | {cpu:.1f} | {1e6 / cpu:,.0f} "
            f"| {row['late_p50_ms']:.2f} | {row['late_p99_ms']:.2f} "
            f"| {row['gap_error_p99_ms']:.2f} | {exact} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure, print the tables and the targets, and keep them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--others", action=argparse.BooleanOptionalAction, default=True,
                        help="also run vllm bench serve and guidellm")  # fmt: skip
    parser.add_argument("--out", type=Path, default=RESULTS, help="a folder for the figures")
    args = parser.parse_args()
    rows = list(streamed(args.repeats))
    with pacer(0.0005, 1) as url:
        dispatch = middle([measured("dispatch", url, "200", "4") for _ in range(args.repeats)])
    found = checks(rows, dispatch)
    parts = [
        "# What a streamed chunk costs the client",
        table(rows),
        f"Open loop at 200 requests/s: sent {dispatch['delay_p50_ms']:.2f} ms late in the "
        f"median, {dispatch['delay_p99_ms']:.2f} ms at p99.",
        "\n".join(f"- {check.line()}" for check in found),
        over_the_floor(rows),
    ]
    if not all(row["realtime"] for row in rows):
        parts.append("No real-time priority here: lateness is also that of a shared machine.")
    print("\n\n".join(parts), flush=True)
    tools = beside(args.others)
    if tools:
        parts.append(beside_lines(tools))
        print("\n" + parts[-1])
    args.out.mkdir(parents=True, exist_ok=True)
    document = {"clients": rows, "dispatch": dispatch, "tools": tools}
    (args.out / "clients.json").write_text(json.dumps(document, indent=1) + "\n")
    (args.out / "clients.md").write_text("\n\n".join(parts) + "\n")
    return 0 if all(check.met for check in found) else 1


if __name__ == "__main__":
    sys.exit(main())
