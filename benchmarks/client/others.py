"""The same work by `vllm bench serve` and by guidellm, each held against what the server sent.

Both are programs of their own: their CPU time is read while the server streams, their figures
come from the files that they write. One that cannot be installed or does not end says so.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import psutil

LIMIT_S = 150.0
INSTALL_LIMIT_S = 600.0
PROMPT_TOKENS = 8
_FAILURES = (
    OSError, subprocess.TimeoutExpired, ValueError, TypeError, LookupError, httpx.HTTPError,
)  # fmt: skip
# Its own code without the `vllm` program, which does not run from every build of it.
_VLLM_BENCH_SERVE = (
    "import argparse; from vllm.benchmarks.serve import add_cli_args, main; "
    "parser = argparse.ArgumentParser(); add_cli_args(parser); main(parser.parse_args())"
)
ROOT = Path(__file__).parents[2]
# The first whose command line is this one: an older one installs too, and takes no such words.
GUIDELLM_FROM = "0.8"
GUIDELLM_HOME = ROOT / ".cache" / "bench-client" / f"guidellm-{GUIDELLM_FROM}"


@dataclass(frozen=True, slots=True)
class Work:
    """What is asked of the server at `url`; `tokenizer` is a folder that has one."""

    url: str
    streams: int
    tokens: int
    tokenizer: Path


@dataclass(frozen=True, slots=True)
class Told:
    """What a tool says of a run: gaps between chunks where it lists them, and its tokens."""

    gap_p99_s: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Tool:
    """A command that does the work and writes its figures to a file, and how to read them."""

    name: str
    command: Callable[[Work, Path], list[str]]
    read: Callable[[Any], Told]


def vllm_command(work: Work, out: Path) -> list[str]:
    """`vllm bench serve`, streaming completions."""
    return [
        sys.executable, "-c", _VLLM_BENCH_SERVE, "--backend", "openai",
        "--base-url", work.url, "--endpoint", "/v1/completions", "--model", "m",
        "--tokenizer", str(work.tokenizer), "--dataset-name", "random",
        "--random-input-len", str(PROMPT_TOKENS), "--random-output-len", str(work.tokens),
        "--num-prompts", str(work.streams), "--max-concurrency", str(work.streams),
        "--request-rate", "inf", "--ignore-eos", "--disable-tqdm", "--num-warmups", "0",
        "--ready-check-timeout-sec", "0", "--save-result", "--save-detailed",
        "--result-dir", str(out.parent), "--result-filename", out.name,
    ]  # fmt: skip


def vllm_told(document: Any) -> Told:
    """Its gaps, all of them."""
    gaps = [gap for stream in document["itls"] for gap in stream]
    return Told(quantile(gaps, 0.99), sum(document["output_lens"]))


def guidellm_command(work: Work, out: Path) -> list[str]:
    """guidellm at a constant concurrency."""
    return [
        str(GUIDELLM_HOME / "bin" / "guidellm"), "run", "--backend",
        f"kind=openai_http,target={work.url},model=m,request_format=/v1/completions",
        "--profile", f"kind=concurrent,streams={work.streams}",
        "--constraint", f"kind=max_requests,count={work.streams}",
        "--tokenizer", f"kind=hf_auto,model={work.tokenizer}", "--data",
        f"kind=synthetic_text,prompt_tokens={PROMPT_TOKENS},output_tokens={work.tokens}",
        "--output", f"kind=json,path={out}", "--disable-console",
    ]  # fmt: skip


def guidellm_told(document: Any) -> Told:
    """What it calls ITL: it lists no gaps, but one mean a request."""
    metrics = document["benchmarks"][0]["metrics"]
    itl = metrics["inter_token_latency_ms"]["successful"]
    tokens = metrics["output_token_count"]["successful"]
    return Told(itl["percentiles"]["p99"] / 1e3, round(tokens["total_sum"]))


VLLM = Tool("vllm bench serve", vllm_command, vllm_told)
GUIDELLM = Tool("guidellm", guidellm_command, guidellm_told)


def install_guidellm() -> str:
    """Into an environment of its own, once; why not, when it cannot be had."""
    home = GUIDELLM_HOME
    if (home / "bin" / "guidellm").exists():
        return ""
    uv = Path(sys.executable).parent / "uv"
    python = str(home / "bin" / "python")
    # Its data loader wants PyTorch: the build without CUDA where there is one, 5 GB less.
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as pins:
        pins.write(_torch_pin())
        pins.flush()
        for words in (
            [str(uv), "venv", "--quiet", "--clear", "--python", sys.executable, str(home)],
            [str(uv), "pip", "install", "--quiet", "--python", python, "--override", pins.name,
             f"guidellm>={GUIDELLM_FROM}"],
        ):  # fmt: skip
            try:
                done = subprocess.run(
                    words, capture_output=True, text=True, timeout=INSTALL_LIMIT_S, check=False,
                    env={"UV_FIND_LINKS": os.environ.get("PIP_FIND_LINKS", ""), **os.environ},
                )  # fmt: skip
            except (OSError, subprocess.TimeoutExpired) as error:
                return f"could not be installed: {type(error).__name__}"
            if done.returncode:
                return f"could not be installed: {done.stderr.strip().splitlines()[-1]}"
    return ""


def _torch_pin() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"torch=={version('torch')}\n"
    except PackageNotFoundError:
        return ""


def run(tool: Tool, work: Work) -> dict[str, Any]:
    """One run of it, beside what the server knows; `failed` says why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        try:
            watched = _watched(tool.command(work, out))
            truth = _truth(work)
            told = tool.read(json.loads(out.read_text()))
        except _FAILURES as error:
            return {"client": tool.name, "failed": f"{type(error).__name__}: {error}"[:300]}
    chunks = sum(len(times) - 1 for times in truth)
    gaps = [b - a for times in truth for a, b in pairwise(times[1:])]
    begin_s, end_s = min(t[0] for t in truth), max(t[-1] for t in truth)
    cpu_s = watched.at(end_s) - watched.at(begin_s)
    true_p99_s = quantile(gaps, 0.99)
    return {
        "client": tool.name,
        "chunks": chunks,
        "tokens": told.tokens,
        "asked": work.streams * work.tokens,
        "cpu_us": 1e6 * cpu_s / chunks,
        "gap_p99_true_ms": 1e3 * true_p99_s,
        "gap_p99_told_ms": 1e3 * told.gap_p99_s,
        "gap_p99_error_ms": 1e3 * abs(told.gap_p99_s - true_p99_s),
    }


def _truth(work: Work) -> list[list[float]]:
    found: list[list[float]] = httpx.get(f"{work.url}/truth", trust_env=False, timeout=30).json()
    whole = [times for times in found if len(times) == work.tokens + 1]
    if not whole:
        raise ValueError(f"it let no answer end ({len(found)} begun)")
    return whole


class _Watched:
    """(moment, CPU seconds so far) of a program and its children, again and again."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []
        self._gone: dict[int, float] = {}

    def note(self, pid: int) -> None:
        """Read them once."""
        try:
            root = psutil.Process(pid)
            for process in (root, *root.children(recursive=True)):
                times = process.cpu_times()
                self._gone[process.pid] = times.user + times.system
        except psutil.Error:
            return
        self.seen.append((time.perf_counter(), sum(self._gone.values())))

    def at(self, moment_s: float) -> float:
        """CPU seconds at a moment, in a line between the readings around it."""
        before = max((s for s in self.seen if s[0] <= moment_s), default=self.seen[0])
        after = min((s for s in self.seen if s[0] > moment_s), default=self.seen[-1])
        if after[0] <= before[0]:
            return before[1]
        share = (moment_s - before[0]) / (after[0] - before[0])
        return before[1] + share * (after[1] - before[1])


def _watched(command: Sequence[str]) -> _Watched:
    """Run a command, watched.

    Raises:
        ValueError: it failed; its last words. TimeoutExpired: it did not end.
    """
    watched = _Watched()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, text=True, start_new_session=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
                 "GUIDELLM__MAX_WORKER_PROCESSES": "1"},
        )  # fmt: skip
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.05):
                watched.note(process.pid)

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            code = process.wait(LIMIT_S)
        finally:
            over.set()
            watching.join()
            if process.poll() is None:
                _end(process)
        if code:
            log.seek(0)
            raise ValueError(f"exit code {code}: {log.read().strip()[-200:]}")
    return watched


def _end(process: "subprocess.Popen[str]") -> None:
    """It and its children, which have a session of their own."""
    os.killpg(process.pid, 9)
    process.wait()


def quantile(values: Sequence[float], share: float) -> float:
    """The nearest value."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
