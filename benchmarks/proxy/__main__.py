"""`make bench-proxy`: what vllama costs between client and engine, next to others, in one run.

The engine and the client are pinned to one core, what is measured to another. Its processor
time is read from the kernel, so that a busy machine changes it little; ratios are to
`direct` and to a plain FastAPI + httpx proxy in the same run.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.proxy.load import Heard, Target
from vllama.engines.process import free_port

CORES = sorted(os.sched_getaffinity(0))
RATE = 50


def main() -> int:
    """Measure everything and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path, default=Path("results/proxy"))
    args = parser.parse_args()
    os.sched_setaffinity(0, {CORES[0]})
    rows: dict[str, dict[str, Any]] = {}
    with upstream() as url:
        for name, command, kind in candidates(url):
            if args.only and name not in args.only.split(","):
                continue
            with proxy(command, url) as (target, process):
                import uvloop

                rows[name] = uvloop.run(measure(target, kind, process, url, args.seconds))
                print(name, json.dumps(rows[name]), file=sys.stderr, flush=True)
    document = {"format": 1, "machine": machine(), "seconds": args.seconds, "rows": rows}
    if not args.only:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "proxy.json").write_text(json.dumps(document, indent=1) + "\n")
        (args.out / "README.md").write_text(table(document))
    print(table(document))
    return 0


def candidates(url: str) -> Iterator[tuple[str, list[str], str]]:
    """Name, command (`PORT` is replaced) and API of each."""
    yield "direct", [], "openai"
    python = sys.executable
    serve = [python, "-m", "vllama", "serve", "--port", "PORT", "--attach", f"m={url}"]
    yield "vllama /api/chat", serve, "ollama"
    yield "vllama /v1", serve, "openai"
    yield "FastAPI + httpx", [python, "-m", "benchmarks.proxy.plain", url, "PORT"], "ollama"
    if shutil.which("litellm"):
        yield "LiteLLM", ["litellm", "--port", "PORT", "--config", litellm_config(url)], "openai"


def litellm_config(url: str) -> str:
    """Its configuration for one model."""
    path = Path(tempfile.mkdtemp()) / "litellm.yaml"
    path.write_text(
        "model_list:\n- model_name: m\n  litellm_params:\n"
        f"    model: openai/m\n    api_base: {url}/v1\n    api_key: none\n"
    )
    return str(path)


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
def proxy(command: list[str], url: str) -> Iterator[tuple[str, psutil.Process | None]]:
    """One candidate, on the last core; the engine itself for no command."""
    if not command:
        yield url, None
        return
    port = free_port()
    words = [w.replace("PORT", str(port)) for w in command]
    with tempfile.TemporaryDirectory() as home, (Path(home) / "log").open("w") as log:
        process = subprocess.Popen(
            words, stdout=log, stderr=log, env={**os.environ, "VLLAMA_HOME": home},
            preexec_fn=lambda: os.sched_setaffinity(0, {CORES[-1]}),
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
    while process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            httpx.get(url, timeout=5, trust_env=False)
            return
        time.sleep(0.1)
    raise RuntimeError(log.read_text())


async def measure(
    target: str, kind: str, process: psutil.Process | None, url: str, seconds: float
) -> dict[str, Any]:
    """All figures of one candidate."""
    server = Target(target, kind)
    await server.streams(4, 10)
    row: dict[str, Any] = {}
    for streams in (100, 400):
        with cpu(process) as used:
            heard = await server.streams(streams, int(seconds * RATE))
        row[f"streams_{streams}"] = streamed(heard, used)
    for in_flight in (1, 64):
        with cpu(process) as used:
            heard = await server.calls(in_flight, 100 * min(20, in_flight + 4))
        row[f"calls_{in_flight}"] = called(heard, used)
    row["abort_ms"] = {
        phase: await abort_ms(server, url, phase) for phase in ("prefill", "decode", "non-stream")
    }
    if process is not None:
        row["rss_mb"] = round(process.memory_info().rss / 1e6)
    return row


def streamed(heard: Heard, used: list[float]) -> dict[str, float]:
    """Figures of many streams."""
    late = sorted(heard.late_s) or [0.0]
    return {
        "tokens_per_s": round(heard.tokens / heard.seconds),
        "late_p50_ms": round(statistics.median(late) * 1e3, 3),
        "late_p99_ms": round(late[int(len(late) * 0.99)] * 1e3, 3),
        "cpu_s_per_million": round(sum(used) / max(1, heard.tokens) * 1e6, 1),
        "failed": heard.failed,
    }


def called(heard: Heard, used: list[float]) -> dict[str, float]:
    """Figures of many whole answers."""
    return {
        "p50_ms": round(statistics.median(heard.took_s) * 1e3, 3),
        "per_s": round(len(heard.took_s) / heard.seconds),
        "cpu_us": round(sum(used) / len(heard.took_s) * 1e6),
        "failed": heard.failed,
    }


async def abort_ms(server: Target, url: str, phase: str) -> float | None:
    """From hanging up to the engine's seeing it; None when it does not within 3 s."""
    async with httpx.AsyncClient(trust_env=False) as client:
        before = len((await client.get(f"{url}/aborts")).json())
        left_ns = await server.abort(phase)
        for _ in range(60):
            await asyncio.sleep(0.05)
            seen = (await client.get(f"{url}/aborts")).json()
            if len(seen) > before:
                return round((seen[before] - left_ns) / 1e6, 2)
    return None


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


def table(document: dict[str, Any]) -> str:
    """The figures as a page."""
    rows = document["rows"]
    direct = rows.get("direct")
    lines = [
        "# What vllama costs between client and engine",
        "",
        f"Measured by `make bench-proxy` on {document['machine']['cpu']}, "
        f"{document['machine']['cores']} cores (engine and client on one, the proxy on another), "
        f"load average {document['machine']['load_before']} before. Latencies are what is added "
        "to direct in the same run.",
        "",
        "| | CPU-s per 1M tokens, 100 streams | added p50 / p99 ms | 400 streams: tokens/s | "
        "added p50 / p99 ms | CPU µs per call, 1 / 64 in flight | abort ms: prefill, decode, "
        "non-stream | RSS MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        cells = [name]
        for streams in ("streams_100", "streams_400"):
            got, base = row[streams], direct[streams] if direct else {}
            if streams == "streams_100":
                cells.append(str(got["cpu_s_per_million"]))
            else:
                cells.append(str(got["tokens_per_s"]))
            late = [
                got[k] - (base.get(k, 0) if name != "direct" else 0)
                for k in ("late_p50_ms", "late_p99_ms")
            ]
            cells.append(f"{late[0]:.2f} / {late[1]:.2f}")
        cells.append(f"{row['calls_1']['cpu_us']} / {row['calls_64']['cpu_us']}")
        cells.append(", ".join("never" if v is None else str(v) for v in row["abort_ms"].values()))
        cells.append(str(row.get("rss_mb", "")))
        lines.append("| " + " | ".join(cells) + " |")
    ours, plain = rows.get("vllama /api/chat"), rows.get("FastAPI + httpx")
    if ours and plain:
        cheaper = (
            plain["streams_100"]["cpu_s_per_million"] / ours["streams_100"]["cpu_s_per_million"]
        )
        calls = plain["calls_64"]["cpu_us"] / ours["calls_64"]["cpu_us"]
        lines += [
            "",
            f"Against the plain proxy, vllama uses {cheaper:.1f}x less processor for a streamed "
            f"token and {calls:.1f}x less for a whole answer with 64 in flight.",
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
