"""The exhaustive grid of a simulated 8B model on an 80 GB card, and random worlds near it.

The truth of a world is the simulator's step model times random smooth main and pair
effects, so that no rule of thumb is the optimum by construction, plus crashes that nothing
foresees. The prior that a tuner gets is the unperturbed step model: its error is the
perturbation.
"""

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vllama.bench.workload import Workload
from vllama.engines.simulator_trial import closed_loop
from vllama.engines.simulator_world import World
from vllama.errors import EngineFailed
from vllama.machine import GIB, Cpu, Gpu, Machine
from vllama.model import Model, Shape
from vllama.profile import Profile, Scalar
from vllama.tuner.knob import Ground, Knob
from vllama.tuner.objective import Objective
from vllama.tuner.slo import Slo
from vllama.tuner.space import Space
from vllama.tuner.subject import Subject

CACHE = Path(__file__).parent.parent.parent / ".cache" / "landscapes"
KNOBS = (
    Knob("max_num_seqs", "int", (16, 32, 64, 128, 256, 512, 1024), 1024, "", log=True),
    Knob("max_num_batched_tokens", "int", (512, 1024, 2048, 4096, 8192, 16384, 32768), 8192, "",
         log=True),
    Knob("gpu_memory_utilization", "float", (0.8, 0.85, 0.9, 0.92, 0.95, 0.97), 0.92, ""),
    Knob("kv_cache_dtype", "categorical", ("auto", "fp8"), "auto", ""),
    Knob("async_scheduling", "categorical", (True, False), True, ""),
    Knob("max_cudagraph_capture_size", "int", (128, 512), 512, "", log=True),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Load:
    """A workload, its limits, and the rules of thumb that a user would start from."""

    workload: Workload
    limits: tuple[Slo, ...] = ()


LOADS = {
    "A": Load(Workload("chat-256", 1024, 256, concurrency=256)),
    "B": Load(
        Workload("rag-64", 4096, 256, concurrency=64),
        (Slo("ttft", "p99", 2.0), Slo("tpot", "p99", 0.042)),
    ),
}
MACHINE = Machine(
    (Gpu(0, "NVIDIA H100 80GB HBM3", "sim", 80 * 10**9, 79 * 10**9, (9, 0), 3.35e12),),
    Cpu("Simulated", 16, 16), 128 * GIB, 120 * GIB,
)  # fmt: skip
SHAPE = Shape(
    architecture="LlamaForCausalLM", layers=32, hidden_size=4096, heads=32, kv_heads=8,
    head_size=128, intermediate_size=14336, vocabulary=128_256, parameters=8_000_000_000,
    active_parameters=8_000_000_000, weight_bytes=16 * 10**9, context_length=8192,
    quantization="BF16", kv_bytes_per_token=131_072,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Figures:
    """What the step model says of one configuration."""

    rate: float
    ttft_p99_s: float
    tpot_p99_s: float


def subject(load: Load) -> Subject:
    """The search problem: default, space and goal."""
    model = Model("8b", Path("8b"), SHAPE, safetensors=Path("8b"))
    ground = Ground(
        model, MACHINE, "simulator", "0.33", frozenset(k.name for k in KNOBS), {},
        (load.workload,), allow_lossy=True,
    )  # fmt: skip
    users = load.workload.concurrency

    def budget(options: Mapping[str, Scalar]) -> str | None:
        seqs, tokens = (int(options[k.name]) for k in KNOBS[:2])
        return "more sequences than tokens a step" if seqs > tokens else None

    thumb: dict[str, Scalar] = {"max_num_seqs": users}
    seeds: tuple[dict[str, Scalar], ...] = ({}, thumb, {**thumb, "max_num_batched_tokens": 2048})
    space = Space(KNOBS, (), seeds, ground, (budget,))
    default = Profile("default", "simulator", "8b", machine=MACHINE.fingerprint)
    return Subject(default, (load.workload,), Objective("throughput", load.limits), space)


def grid(name: str) -> dict[str, Figures | None]:
    """Every combination of the knobs on the step model; None for what does not start."""
    return _read(CACHE / f"{name}.json", name)


@functools.cache
def _read(path: Path, name: str) -> dict[str, Figures | None]:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        found = [_figures(LOADS[name], c) for c in _every()]
        path.write_text(json.dumps(found))
    read = json.loads(path.read_text())
    return {at(c): None if f is None else Figures(*f) for c, f in zip(_every(), read, strict=True)}


def at(choice: Mapping[str, Scalar]) -> str:
    """A name for a whole choice."""
    return " ".join(str(choice.get(k.name, k.default)) for k in KNOBS)


@functools.cache
def _every() -> list[dict[str, Scalar]]:
    every: list[dict[str, Scalar]] = [{}]
    for knob in KNOBS:
        every = [{**c, knob.name: v} for c in every for v in knob.choices]
    return every


def _figures(load: Load, choice: Mapping[str, Scalar]) -> tuple[float, float, float] | None:
    world, what = World(), load.workload
    try:
        limits = world.limits(choice)
    except EngineFailed:
        return None
    run = closed_loop(
        world, limits, concurrency=what.concurrency, requests=3 * what.concurrency,
        prompt_tokens=what.prompt_tokens, output_tokens=what.output_tokens, spread=0.15, seed=1,
    )  # fmt: skip
    ends = sorted(s.end_s for s in run.served)
    low, high = ends[len(ends) // 3], ends[int(0.9 * len(ends))]
    steady = [s for s in run.served if low < s.end_s <= high]
    rate = sum(s.output_tokens for s in steady) / (high - low)
    ttft = np.percentile([s.first_token_s - s.sent_s for s in steady], 99)
    tpot = np.percentile(
        [(s.end_s - s.first_token_s) / (s.output_tokens - 1) for s in steady], 99
    )  # fmt: skip
    return rate, float(ttft), float(tpot)


class Truth:
    """One world: what each configuration really reaches in it.

    `error` is the standard deviation of the log of truth over prior.
    """

    def __init__(self, name: str, seed: int, error: float) -> None:
        self.load = LOADS[name]
        base = grid(name)
        random = np.random.default_rng(1000 + seed)
        effects = _effects(random)
        where = {at(c): _indices(c) for c in _every()}
        raw = {k: sum(float(t[tuple(w[i] for i in on)]) for on, t in effects)
               for k, w in where.items()}  # fmt: skip
        scale = error / float(np.std([v for k, v in raw.items() if base[k]]))
        pair = random.choice([0, 1, 2], 2, replace=False)
        hidden = [(int(k), int(random.integers(len(KNOBS[k].choices)))) for k in pair]
        self._figures = {
            k: _faster(f, math.exp(scale * raw[k]))
            for k, f in base.items()
            if f and (k == at({}) or any(where[k][i] != v for i, v in hidden))
        }
        self.best = max(f.rate for f in self._figures.values() if self._keeps(f))

    def figures(self, choice: Mapping[str, Scalar]) -> Figures | None:
        """What is true of it; None where it crashes."""
        return self._figures.get(at(choice))

    def quality(self, choice: Mapping[str, Scalar] | None) -> float:
        """Share of the best that may be used; 0 for a crash or a broken limit."""
        figures = None if choice is None else self.figures(choice)
        return figures.rate / self.best if figures and self._keeps(figures) else 0.0

    @property
    def near(self) -> float:
        """The share of the grid within 2 % of the best."""
        close = [f for f in self._figures.values() if self._keeps(f) and f.rate > 0.98 * self.best]
        return len(close) / len(_every())

    def _keeps(self, figures: Figures) -> bool:
        values = {"ttft": figures.ttft_p99_s, "tpot": figures.tpot_p99_s}
        return all(values[s.metric] <= s.limit_s for s in self.load.limits)


def _faster(figures: Figures, factor: float) -> Figures:
    """A world that is faster for a configuration is so in everything."""
    return Figures(figures.rate * factor, figures.ttft_p99_s / factor, figures.tpot_p99_s / factor)


def _indices(choice: Mapping[str, Scalar]) -> tuple[int, ...]:
    return tuple(k.choices.index(choice.get(k.name, k.default)) for k in KNOBS)


def _effects(
    random: np.random.Generator,
) -> list[tuple[tuple[int, ...], NDArray[np.float64]]]:
    """Main effects are random walks, pair effects independent and a little smaller."""
    found: list[tuple[tuple[int, ...], NDArray[np.float64]]] = []
    for index, knob in enumerate(KNOBS):
        walk = np.cumsum(random.normal(0, 0.025, len(knob.choices)))
        found.append(((index,), walk - walk.mean()))
    for one in range(len(KNOBS)):
        for other in range(one + 1, len(KNOBS)):
            shape = (len(KNOBS[one].choices), len(KNOBS[other].choices))
            found.append(((one, other), random.normal(0, 0.015, shape)))
    return found
