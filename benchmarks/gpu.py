"""`make test-gpu`: the whole loop on a card, with a model of random weights and a real size.

Tune and proof, the winner against vLLM's defaults and against Ollama (where it is installed),
serve and a client, and the KV cache that was predicted against what the logs say. Results lie
in results/<machine>/. Each step is a command that a user could type.

    python -m benchmarks.gpu [--dry-run]
"""

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import report
from vllama import hardware, store, toy
from vllama.bench import workloads
from vllama.disk import write_whole
from vllama.engines import choose
from vllama.errors import EngineMissing, VllamaError
from vllama.machine import Machine
from vllama.settings import Settings
from vllama.toy.size import LIKE_QWEN_1_5B
from vllama.tuner import space
from vllama.tuner.fit import Fit

ROOT = Path(__file__).parent.parent
WORK = ROOT / ".cache" / "gpu"
MODEL = WORK / "like-qwen-1-5b"
SERVED = "http://127.0.0.1:PORT"
QUESTION = "Why is the sky blue?"
_STOP_S = 60.0
_LOOKS = 60


@dataclass(frozen=True, slots=True)
class Step:
    """One command of vllama; its JSON goes to `save`. `beside` runs while it does."""

    why: str
    words: tuple[str, ...]
    save: Path | None = None
    beside: tuple[str, ...] = ()

    def line(self) -> str:
        """As it is typed."""
        to = f" > {self.save}" if self.save else ""
        return f"vllama {shlex.join(self.words)}{to}".replace(f"{ROOT}/", "")


class StepFailed(VllamaError):
    """A command of the loop did not end well."""


def plan(results: Path, *, ollama: bool) -> list[Step]:
    """Every command, in order; those after `serve` run while it does."""
    model, engine = str(MODEL), ("--engine", "vllm")
    sides = ("--profile", "best", "--profile", "default")
    load = ("--workload", "concurrent-50-short")
    steps = [
        Step("what is here", ("doctor", "--json"), results / "gpu-doctor.json"),
        Step("tune, and prove the winner on fresh starts",
             ("tune", model, *engine, *load, "--trials", "12", "--budget", "30m", "--json"),
             results / "gpu-tune.json"),
        Step("the winner against vLLM's defaults, at loads it was not tuned for too",
             ("bench", model, *engine, *sides, *load, "--workload", "sequential-short",
              "--workload", "concurrent-10-long", "--repeat", "2", "--json"),
             results / "gpu-bench.json"),
    ]  # fmt: skip
    if ollama:
        against = ("--profile", "best", "--vs-ollama", "--ollama-import", "--json")
        steps.append(
            Step("the winner against Ollama, with the same weights",
                 ("bench", model, *engine, *against), results / "gpu-ollama.json",
                 beside=("ollama", "serve"))
        )  # fmt: skip
    return steps


def serving(results: Path) -> tuple[Step, list[Step]]:
    """The server, and what is asked of it."""
    model = str(MODEL)
    serve = ("serve", model, "--engine", "vllm", "--profile", "best", "--port", "0", "--preload")
    bench = ("bench", MODEL.name, "--url", SERVED, "--api", "ollama")
    return Step("serve it as Ollama would", serve), [
        Step("a client", ("run", MODEL.name, QUESTION)),
        Step("what the server gives", (*bench, "--workload", "concurrent-50-short", "--json"),
             results / "gpu-served.json"),
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run all of it; 1 where something failed or there is no card."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--dry-run", action="store_true", help="print the plan, start nothing")
    args = parser.parse_args(argv)
    settings = Settings.from_environment()
    here = hardware.visible(settings.environment)
    lack = lacking(here)
    try:
        if args.dry_run:
            show(ROOT / "results" / here.fingerprint, lack)
            return 0
        if lack:
            raise EngineMissing(lack, "`--dry-run` prints what would be done.")
        run(here)
    except VllamaError as error:
        print(f"test-gpu: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def lacking(here: Machine) -> str:
    """Why this cannot be done here; empty when it can."""
    if not here.cuda or not here.gpus:
        return f"no CUDA here: this machine is {here.fingerprint}, and the loop needs an NVIDIA GPU"
    return ""


def show(results: Path, lack: str) -> None:
    """The plan, without doing any of it."""
    serve, asked = serving(results)
    ollama = shutil.which("ollama") is not None
    count = LIKE_QWEN_1_5B.parameters / 1e9
    place = MODEL.relative_to(ROOT)
    print(f"# make {place}: {count:.2f}B random weights in the shape of Qwen2.5-1.5B")
    for step in (*plan(results, ollama=ollama), serve, *asked):
        print(f"# {step.why}\n{step.line()}")
    if not ollama:
        print("# not against Ollama: it is not installed")
    told = (results / "gpu-kv.json").relative_to(ROOT)
    print(f"# the predicted KV cache against the log of each start > {told}")
    print("make report")
    if lack:
        print(f"{lack}; nothing of this can run")


def run(here: Machine) -> None:
    """All steps, each result on disk as soon as it is there.

    Raises:
        StepFailed: names the command.
    """
    results = ROOT / "results" / here.fingerprint
    results.mkdir(parents=True, exist_ok=True)
    # Profiles and studies of whoever runs this stay as they are.
    environment = {**os.environ, "VLLAMA_HOME": str(WORK / "home")}
    if not MODEL.exists():
        toy.make(MODEL, size=LIKE_QWEN_1_5B)
    # The card is described while it is empty, as `tune` finds it before its first start.
    fit = _fit(here)
    for step in plan(results, ollama=shutil.which("ollama") is not None):
        with _beside(step.beside, environment):
            _do(step, environment)
    serve, asked = serving(results)
    with _server(serve, environment) as url:
        for step in asked:
            words = tuple(word.replace(SERVED, url) for word in step.words)
            _do(Step(step.why, words, step.save), {**environment, "OLLAMA_HOST": url})
    bench = json.loads((results / "gpu-bench.json").read_text())
    told = {"format": 1, "model": MODEL.name, "kv": predictions(fit, bench)}
    write_whole(results / "gpu-kv.json", json.dumps(told, indent=1) + "\n")
    report.build(ROOT / "results")


def predictions(fit: Fit, bench: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of each target whose start told its KV cache: what was predicted, and what it was."""
    found = []
    for target in bench["targets"]:
        real = target.get("facts", {}).get("kv_cache_tokens")
        if real:
            predicted = fit.verdict(target["options"]).kv_tokens
            row = {"target": target["name"], "options": target["options"]}
            found.append(row | {"predicted": predicted, "log": real, "off": predicted / real - 1})
    return found


def _fit(here: Machine) -> Fit:
    settings = Settings.from_environment()
    model = store.resolve(str(MODEL), settings)
    engine = choose(model, here, settings, "vllm").engine
    built = space.build(
        model, here, engine=engine.name, version=engine.version(), accepts=engine.accepts(),
        default=engine.default(model, here), load=workloads.named("concurrent-10"),
    )  # fmt: skip
    return Fit.of(built.ground)


def _do(step: Step, environment: Mapping[str, str]) -> None:
    print(f"\n# {step.why}\n$ {step.line()}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "vllama", *step.words], env=environment,
        stdout=subprocess.PIPE if step.save else None, check=False,
    )  # fmt: skip
    if step.save and done.stdout:
        write_whole(step.save, done.stdout.decode())
    if done.returncode:
        raise StepFailed(
            f"`{step.line()}` failed with exit code {done.returncode}",
            "What was measured before is kept; its own message is above.",
        )


@contextmanager
def _beside(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[None]:
    """Something that runs meanwhile, as an Ollama that takes our weights."""
    if not command:
        yield
        return
    address = Settings.from_environment(environment).address
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        for _ in range(_LOOKS):
            with (
                contextlib.suppress(OSError),
                socket.create_connection((address.host, address.port), 1),
            ):
                break
            time.sleep(0.5)
        yield
    finally:
        process.terminate()
        process.wait(_STOP_S)


@contextmanager
def _server(serve: Step, environment: Mapping[str, str]) -> Iterator[str]:
    """Its address, from when it is ready; it is stopped on leaving."""
    print(f"\n# {serve.why}\n$ {serve.line()}", flush=True)
    command = [sys.executable, "-m", "vllama", *serve.words]
    log = WORK / "serve.log"
    with log.open("w") as to:
        process = subprocess.Popen(command, env=environment, stderr=to)
    try:
        yield _ready(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_STOP_S)


def _ready(process: "subprocess.Popen[bytes]", log: Path) -> str:
    while True:
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            if found := re.search(r"ready on (http://\S+)", log.read_text()):
                return found[1]
            continue
        raise StepFailed("vllama serve ended before it was ready", f"See {log}.")


if __name__ == "__main__":
    sys.exit(main())
