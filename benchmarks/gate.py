"""The project's own regression gate: what serving costs on top of the engine.

`vllama serve` and the bare engine, with the same profile, take the same load in turns. Their
ratio is compared with the one committed for this kind of machine, never an absolute time.

    python -m benchmarks.gate [--engine vllm] [--update]
"""

import argparse
import asyncio
import contextlib
import json
import re
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from vllama import hardware, store, toy
from vllama.bench import verdicts, workloads
from vllama.bench.contest import Contest, Target
from vllama.cli.baseline import REGRESSION
from vllama.disk import write_whole
from vllama.engines import choose
from vllama.engines.engine import Endpoint, Engine
from vllama.engines.process import launch, wait_ready
from vllama.errors import EngineFailed
from vllama.machine import Machine
from vllama.model import Model
from vllama.profile import Profile
from vllama.results import metrics, regression
from vllama.settings import Settings
from vllama.shelf import Shelf

ROOT = Path(__file__).parent.parent
MODEL = ROOT / ".cache" / "gate-toy"
ALLOWED = 0.10
STARTS, BLOCKS, REQUESTS = 4, 3, 60
LOADS = ("sequential-short", "concurrent-10-short")
REFERENCE, SUBJECT = "engine", "vllama"


class Served:
    """`vllama serve` as an engine: a process that speaks Ollama's API."""

    name = "vllama"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def version(self) -> str:
        """It has the engine's."""
        return ""

    def accepts(self) -> frozenset[str]:
        """It takes the engine's profile as it is."""
        return frozenset()

    def default(self, model: Model, machine: Machine) -> Profile:  # noqa: ARG002 - the seam's form
        """Not asked for here."""
        return Profile("served", self.name, model.name)

    @asynccontextmanager
    async def start(self, profile: Profile) -> AsyncIterator[Endpoint]:
        """Serve the model with the profile on a port of its own."""
        with tempfile.TemporaryDirectory() as home:
            Shelf(Path(home) / "profiles").put(profile)
            ready: list[str] = []

            def on_line(line: str) -> None:
                ready.extend(re.findall(r"ready on (http://\S+)", line))

            async def is_ready() -> bool:
                return bool(ready)

            command = [sys.executable, "-m", "vllama", "serve", profile.model, "--preload"]
            command += ["--engine", profile.engine, "--profile", profile.name, "--port", "0"]
            environment = {**self._settings.environment, "VLLAMA_HOME": home}
            async with launch(
                command, name="serve", environment=environment, explain=_explain, on_line=on_line
            ) as child:
                await wait_ready(child, is_ready, stall_s=300, what="vllama serve")
                model = Path(profile.model).name
                yield Endpoint(ready[0], model, self.name, child, api="ollama")


def _explain(log: Any) -> EngineFailed:
    return EngineFailed("vllama serve ended: " + " | ".join(list(log)[-5:]), log=tuple(log))


def main() -> int:
    """Measure and judge; 3 when serving has become more costly."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--engine", default="llamacpp", choices=["llamacpp", "vllm"])
    parser.add_argument("--update", action="store_true", help="keep this run as the baseline")
    args = parser.parse_args()
    settings = Settings.from_environment()
    if not MODEL.exists():
        toy.make(MODEL)
    here = hardware.detect()
    found = asyncio.run(_measure(args.engine, here, settings))
    path = ROOT / "results" / here.fingerprint / f"serving-{args.engine}.json"
    if args.update or not path.exists():
        write_whole(path, json.dumps(found, indent=1) + "\n")
        print(f"kept as the baseline: {path.relative_to(ROOT)}")
        return 0
    gate = regression.gate(json.loads(path.read_text()), found, max_regression=ALLOWED)
    for check in gate.checks:
        change = f"{check.baseline:.3f} before, {check.candidate:.3f} now"
        worse = f"{metrics.ratio(check.worse)} as bad"
        if check.worse_ci90:
            worse += " (90 % {:.3f} to {:.3f})".format(*check.worse_ci90)
        label = metrics.label(check.metric)
        print(f"{check.verdict:<10} {check.workload} {label}: {change}, {worse}")
    print(f"{gate.verdict}: figures are {SUBJECT}'s divided by the {REFERENCE}'s in the same run")
    return REGRESSION if gate.verdict == "regression" else 0


async def _measure(name: str, here: Machine, settings: Settings) -> dict[str, Any]:
    model = store.resolve(str(MODEL), settings)
    engine = choose(model, here, settings, name).engine
    profile = _profile(engine, model, here)
    targets = (Target(REFERENCE, engine, profile), Target(SUBJECT, Served(settings), profile))
    loads = [
        replace(w, requests=REQUESTS if w.concurrency > 1 else REQUESTS // 4)
        for name in LOADS
        for w in workloads.named(name)
    ]
    contest = Contest(targets, loads, BLOCKS, STARTS, together=True)
    blocks = []
    async with contextlib.aclosing(contest.run()) as measured:
        async for block in measured:
            blocks.append(block)
            print(
                f"{block.target:<8} {block.workload.name} {block.start}.{block.block}", flush=True
            )
    document = {
        "format": 1,
        "machine": {"fingerprint": here.fingerprint},
        "model": MODEL.name,
        "targets": [{"name": t.name, "engine": name} for t in targets],
        "results": [r.to_json() for r in verdicts.results(blocks)],
    }
    return regression.relative(document, reference=REFERENCE, subject=SUBJECT)


def _profile(engine: Engine, model: Model, here: Machine) -> Profile:
    """One thread for llama.cpp, since the load takes the other core."""
    profile = engine.default(model, here)
    if profile.engine == "llamacpp":
        profile = profile.with_options(n_parallel=10, threads=1, threads_batch=1)
    return Profile("best", profile.engine, profile.model, profile.options, profile.environment)


if __name__ == "__main__":
    sys.exit(main())
