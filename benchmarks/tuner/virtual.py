"""A bench in virtual time on a world: noise within a block, between starts, and cost."""

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from benchmarks.tuner.landscape import Figures, Truth, at, grid
from vllama.bench.measurement import Measurement, Quantiles
from vllama.bench.rig import Session
from vllama.bench.workload import Workload
from vllama.engines.engine import Endpoint, Immortal
from vllama.errors import EngineFailed
from vllama.profile import Profile, Scalar
from vllama.tuner.objective import Objective
from vllama.tuner.prior import Expected
from vllama.tuner.trial import Trial

START_S, WITHIN, BETWEEN = 60.0, 0.01, 0.007
# How far a limit that is set on a running engine lies from the same one at a start.
STEERED = 0.01
_LIVE = "STEERED"


class VirtualBench:
    """Measures the truth with noise; a 60 s block errs by 1 %, a start by 0.7 %."""

    def __init__(self, truth: Truth, seed: int) -> None:
        self.truth = truth
        self.random = np.random.default_rng(seed)
        self.now = 0.0
        self.starts = 0
        self.crashes = 0
        self.launched: Mapping[str, Scalar] = {}
        self.session: VirtualSession

    def clock(self) -> float:
        return self.now

    @asynccontextmanager
    async def started(self, profile: Profile) -> "AsyncIterator[VirtualSession]":
        self.now += START_S
        self.starts += 1
        self.launched = profile.options
        figures = self._figures(profile.options, "profile")
        self.session = VirtualSession(self, figures, self.random.normal(0, BETWEEN))
        yield self.session

    def _figures(self, options: Mapping[str, Scalar], phase: str) -> Figures:
        figures = self.truth.figures(options)
        if figures is None:
            self.crashes += phase == "profile"
            raise EngineFailed("it fell", kind="out_of_memory", phase=phase)
        return figures

    # Steering: the limits of the engine that runs.

    limits: tuple[str, ...] = ("max_num_seqs", "max_num_batched_tokens")

    def steerable(self, profile: Profile) -> Profile:
        return replace(profile, environment={**profile.environment, _LIVE: "1"})

    def steer(self, _session: Session, limits: Mapping[str, int]) -> bool:
        self.session.steered = {**self.launched, **limits}
        self.session.steered_error = self.random.normal(0, STEERED)
        return True

    def settled(self, session: "VirtualSession") -> Figures:
        """What a session shows now: where it was told other limits, those of them."""
        return self._figures(session.steered, "run") if session.steered else session.figures


@dataclass
class VirtualSession:
    """A start, with its own luck."""

    bench: VirtualBench
    figures: Figures
    offset: float
    facts: Mapping[str, Scalar] = field(default_factory=dict)
    start_s: float = START_S
    steered: dict[str, Scalar] = field(default_factory=dict)
    steered_error: float = 0.0
    endpoint: Endpoint = field(
        default_factory=lambda: Endpoint("http://nowhere", "8b", "simulator", Immortal())
    )

    async def measure(self, workload: Workload) -> Measurement:
        seconds = workload.duration_s or 60.0
        self.bench.now += seconds
        figures = self.bench.settled(self)
        error = self.offset + self.bench.random.normal(0, WITHIN * math.sqrt(60 / seconds))
        return measurement(figures, math.exp(error + self.steered_error))


def measurement(figures: Figures, error: float = 1.0) -> Measurement:
    """The figures as a bench would give them, all better by the factor `error`."""

    def around(p99: float) -> Quantiles:
        return Quantiles(mean=p99 * 0.7, p50=p99 * 0.7, p95=p99 * 0.95, p99=p99)

    rate = figures.rate * error
    return Measurement(
        duration_s=60.0, completed=1000, failed=0, requests_per_s=rate / 256,
        output_tokens_per_s=rate, total_tokens_per_s=rate * 5, prompt_tokens=0, output_tokens=0,
        ttft_s=around(figures.ttft_p99_s / error), itl_s=None,
        tpot_s=around(figures.tpot_p99_s / error), e2e_s=None,
    )  # fmt: skip


class StepModel:
    """The prior: the unperturbed step model."""

    def __init__(self, name: str, objective: Objective) -> None:
        self._grid = grid(name)
        self._objective = objective
        self._known: dict[str, Expected] = {}

    def expect(self, options: Mapping[str, Scalar]) -> Expected:
        where = at(options)
        if where not in self._known:
            figures = self._grid[where]
            predicted = {} if figures is None else {"": measurement(figures)}
            value = self._objective.value(predicted) if predicted else 0.0
            excesses = self._objective.broken(predicted) if predicted else {}
            self._known[where] = Expected(value, excesses, figures is not None)
        return self._known[where]

    def after(self, trials: Sequence[Trial]) -> "StepModel":  # noqa: ARG002
        """It does not learn."""
        return self
