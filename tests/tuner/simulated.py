"""A bench that measures a formula in virtual time, for tests of everything above it."""

import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from vllama.bench.measurement import Measurement, Quantiles
from vllama.bench.workload import Workload
from vllama.engines.engine import Endpoint, Immortal
from vllama.errors import EngineFailed
from vllama.machine import GIB, Cpu, Machine
from vllama.model import Model, Shape
from vllama.profile import Profile, Scalar
from vllama.tuner import space
from vllama.tuner.objective import Objective
from vllama.tuner.subject import Subject

LOAD = Workload("concurrent-10", 50, 64, concurrency=10)
MACHINE = Machine(
    (), Cpu("Simulated", 4, 4), memory_bytes=32 * GIB, available_bytes=24 * GIB
)  # fmt: skip
SHAPE = Shape(
    architecture="qwen2", layers=4, hidden_size=128, heads=4, kv_heads=2, head_size=32,
    intermediate_size=512, vocabulary=4096, parameters=4_000_000, active_parameters=4_000_000,
    weight_bytes=8_000_000, context_length=2048, quantization="F16", kv_bytes_per_token=1024,
)  # fmt: skip
OPTIONS = frozenset({"n_parallel", "n_ctx", "n_batch", "n_ubatch", "threads", "flash_attn"})


class Clock:
    """Virtual time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class SimulatedSession:
    bench: "SimulatedBench"
    profile: Profile
    drift: float
    facts: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def start_s(self) -> float:
        return self.bench.start_s

    @property
    def endpoint(self) -> Endpoint:
        command = ("engine", *(f"--{k}={v}" for k, v in self.profile.options.items()))
        return Endpoint("http://nowhere", "toy", "simulated", Immortal(), command=command)

    async def measure(self, workload: Workload) -> Measurement:
        self.bench.clock.now += workload.duration_s or 1.0
        self.bench.measured += 1
        self.bench.before_measuring()
        rate = self.bench.rate(dict(self.profile.options)) * self.drift
        return measurement(rate * (1 + self.bench.random.gauss(0, self.bench.noise)))


class SimulatedBench:
    """`rate` gives tokens/s for options, or raises EngineFailed as an engine would."""

    def __init__(
        self,
        rate: Callable[[Mapping[str, Scalar]], float],
        *,
        start_s: float = 1.0,
        noise: float = 0.0,
        start_noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.rate = rate
        self.start_s = start_s
        self.noise = noise
        self.start_noise = start_noise
        self.random = random.Random(seed)
        self.clock = Clock()
        self.launched: list[dict[str, Scalar]] = []
        self.live = 0
        self.measured = 0
        self.before_measuring: Callable[[], None] = lambda: None

    @asynccontextmanager
    async def started(self, profile: Profile) -> AsyncIterator[SimulatedSession]:
        self.clock.now += self.start_s
        self.launched.append(dict(profile.options))
        self.rate(dict(profile.options))
        self.live += 1
        try:
            yield SimulatedSession(self, profile, 1 + self.random.gauss(0, self.start_noise))
        finally:
            self.live -= 1


def measurement(rate: float, ttft_s: float | None = None, failed: int = 0) -> Measurement:
    """What a load would show at `rate` tokens/s."""
    first = ttft_s if ttft_s is not None else 10 / rate

    def around(mean: float) -> Quantiles:
        return Quantiles(mean=mean, p50=mean * 0.9, p95=mean * 2, p99=None)

    return Measurement(
        duration_s=4.0, completed=100, failed=failed, requests_per_s=rate / 64,
        output_tokens_per_s=rate, total_tokens_per_s=rate * 1.8, prompt_tokens=5000,
        output_tokens=6400, ttft_s=around(first), itl_s=around(10 / rate),
        tpot_s=around(10 / rate), e2e_s=around(first + 640 / rate), peak_memory_bytes=10**8,
    )  # fmt: skip


def fell(kind: str = "out_of_memory", phase: str = "load") -> EngineFailed:
    return EngineFailed(f"it fell: {kind}", kind=kind, phase=phase)


def subject(objective: Objective | None = None, *loads: Workload) -> Subject:
    """A toy on llama.cpp, with the real space for it."""
    model = Model("toy", Path("toy"), SHAPE, gguf=Path("toy.gguf"))
    default = Profile("default", "llamacpp", "toy", machine=MACHINE.fingerprint)
    found = space.build(
        model, MACHINE, engine="llamacpp", version="1", accepts=OPTIONS, default=default,
        load=loads or (LOAD,),
    )  # fmt: skip
    return Subject(default, loads or (LOAD,), objective or Objective("throughput"), found)


def slots(options: Mapping[str, Scalar]) -> int:
    """More slots are faster, up to the load's ten."""
    return int(options.get("n_parallel", 1))
