"""How many tokens vLLM's cache holds: what `fit` says before a start, against the start's log.

    python -m benchmarks.tuner.kv [--most 3]

Short starts of the real vLLM without compilation, two at a time: vLLM takes its share of all
memory less what its own process holds, so neighbours do not change what it tells. Each is on
disk at once (results/<machine>/kv-capacity.jsonl), and the next call goes on. Writes the table
beside it.
"""

import argparse
import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

from vllama import hardware, store, toy
from vllama.engines import choose
from vllama.errors import EngineFailed
from vllama.machine import Cpu, Machine
from vllama.model import Model, Shape
from vllama.profile import Profile, Scalar
from vllama.settings import Settings
from vllama.tuner.fit import Fit
from vllama.tuner.knob import Ground

ROOT = Path(__file__).parent.parent.parent
CACHE = ROOT / ".cache" / "tuner-kv"
# The memory model's constants were fixed before 60M was measured: it is the held-out one.
SIZES = {"4M": 4_000_000, "30M": 30_000_000, "100M": 100_000_000, "60M": 60_000_000}
AT_ONCE = 2
Case: TypeAlias = tuple[str, dict[str, Scalar]]
TOLD = ("kv_cache_tokens", "kv_cache_bytes", "model_memory_bytes", "load_s")


def cases() -> Iterator[Case]:
    """A size of the model and the options of a start; what is left over is the cache's."""
    for at, (size, dtype, tokens, share) in enumerate(
        product(SIZES, ("auto", "float32"), (2048, 8192), (0.2, 0.4))
    ):
        yield size, {
            "gpu_memory_utilization": share, "dtype": dtype, "max_num_batched_tokens": tokens,
            "max_num_seqs": (64, 256)[at % 2], "max_model_len": (2048, 8192)[at // 2 % 2],
            "enforce_eager": True,
        }  # fmt: skip


def main() -> None:
    """Start what was not started yet; write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--most", type=int, default=99, help="starts in this call")
    args = parser.parse_args()
    settings = Settings.from_environment()
    here = hardware.detect()
    file = ROOT / "results" / here.fingerprint / "kv-capacity.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    have = [(d["size"], d["options"]) for d in _lines(file)]
    todo = [case for case in cases() if case not in have][: args.most]
    asyncio.run(_start_all(todo, settings, file))
    order = list(cases())
    done = sorted(_lines(file), key=lambda d: order.index((d["size"], d["options"])))
    file.with_suffix(".md").write_text(table(done))
    print(table(done))


async def _start_all(todo: Sequence[Case], settings: Settings, file: Path) -> None:
    for size in {size for size, _ in todo}:
        if not (CACHE / size).exists():
            toy.make(CACHE / size, parameters=SIZES[size])
    free = asyncio.Semaphore(AT_ONCE)

    async def one(size: str, options: dict[str, Scalar]) -> None:
        async with free:
            told = await _start(size, options, settings)
        with file.open("a") as to:
            to.write(json.dumps(told) + "\n")

    await asyncio.gather(*(one(size, options) for size, options in todo))


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


async def _start(size: str, options: dict[str, Scalar], settings: Settings) -> dict[str, Any]:
    place = CACHE / size
    machine = hardware.detect()
    model = store.resolve(str(place), settings)
    engine = choose(model, machine, settings, "vllm").engine
    told: dict[str, Any] = {
        "size": size, "options": options, "engine": engine.version(),
        "memory_bytes": machine.memory_bytes, "available_bytes": machine.available_bytes,
        "node_bytes": machine.cpu.node_bytes, "shape": asdict(model.shape),
    }  # fmt: skip
    try:
        async with engine.start(Profile("kv", "vllm", str(place), options)) as endpoint:
            told["facts"] = {k: v for k, v in endpoint.facts.items() if k in TOLD}
    except EngineFailed as failed:
        told["failed"] = failed.message
    print(size, options, told.get("facts", told.get("failed")), flush=True)
    return told


def table(done: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: what was said before, and after the first start of the same model."""
    head = (
        "model",
        "dtype",
        "share of memory",
        "tokens a step",
        "log",
        "before",
        "after one start",
        "after one of the same type",
    )
    rows: list[list[Any]] = []
    before: list[float] = []
    after: list[float] = []
    after_like: list[float] = []
    for line in done:
        options = line["options"]
        cells = [line["size"], options["dtype"], options["gpu_memory_utilization"],
                 options["max_num_batched_tokens"]]  # fmt: skip
        real = line.get("facts", {}).get("kv_cache_tokens")
        if not real:
            rows.append([*cells, line.get("failed", "it told no size"), "", "", ""])
            continue
        before.append(_fit(line).verdict(options).kv_tokens / real - 1)
        rows.append([*cells, f"{real:,}", f"{before[-1]:+.1%}"])
        alike = [d for d in done if d["options"]["dtype"] == options["dtype"]]
        for errors, known in ((after, done), (after_like, alike)):
            calibrated = _after(line, known)
            if calibrated is not None:
                errors.append(calibrated / real - 1)
            rows[-1].append("" if calibrated is None else f"{errors[-1]:+.1%}")
    text = ["# KV capacity: predicted against the logs of real starts", ""]
    text.append(
        "vLLM on this machine's CPU, toy models of random weights, no compilation. Written by "
        "`python -m benchmarks.tuner.kv`. The columns 'after' are calibrated with the first start "
        "of the same model, or of the same model and type, which has no figure there."
    )
    for name, errors in zip(head[-3:], (before, after, after_like), strict=True):
        if errors:
            worst = max(abs(e) for e in errors)
            middle = sorted(abs(e) for e in errors)[len(errors) // 2]
            text += ["", f"{name}: {len(errors)} starts, median {middle:.1%}, worst {worst:.1%}"]
    text += ["", "| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    text += ["| " + " | ".join(str(c) for c in row) + " |" for row in rows]
    return "\n".join(text) + "\n"


def _fit(line: Mapping[str, Any]) -> Fit:
    """What is known without a start: without a cache of a given size, the rest is the cache's."""
    cpu = Cpu("CPU", cores=2, physical_cores=2, node_bytes=line.get("node_bytes", 0))
    machine = Machine((), cpu, line["memory_bytes"], line["available_bytes"])
    model = Model(line["size"], Path(line["size"]), Shape(**line["shape"]))
    version = line["engine"].removeprefix("vllm ")
    return Fit.of(Ground(model, machine, "vllm", version, frozenset(), {}, ()))


def _after(line: Mapping[str, Any], done: Sequence[Mapping[str, Any]]) -> int | None:
    """Calibrated with the first start of the same model, unless it is that."""
    first = next((d for d in done if d["size"] == line["size"] and d.get("facts")), line)
    if first is line:
        return None
    # What it taught is bytes beside the cache: a virtual machine may have had other memory then.
    taught = _fit(first).calibrate(first["options"], first["facts"]).correction
    return replace(_fit(line), correction=taught).verdict(line["options"]).kv_tokens


if __name__ == "__main__":
    main()
