"""Fit: before anything is started, whether a configuration works here and how fast it is.

It begins with data sheets and usual shares; every start makes it truer (`calibrate`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vllama.bench.measurement import Measurement
from vllama.bench.workload import Workload
from vllama.machine import GIB
from vllama.profile import Scalar
from vllama.tuner import calibration, device, memory, roofline
from vllama.tuner.calibration import Start
from vllama.tuner.device import Device
from vllama.tuner.knob import Ground, count
from vllama.tuner.memory import Budget, Correction
from vllama.tuner.roofline import Efficiency

# A configuration is refused only when it lacks more than this share; the rest may be tried.
MARGIN = 0.05


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a load should show, as means. `error` 0.5 says: between 1/1.5 and 1.5 times it.

    `bound_by` says what to buy more of: `memory bandwidth`, `arithmetic` or `the host`.
    """

    output_tokens_per_s: float
    ttft_s: float
    tpot_s: float
    memory_bytes: int
    error: float
    bound_by: str

    @property
    def low(self) -> float:
        """Tokens a second, if the model of this machine flatters it."""
        return self.output_tokens_per_s / (1 + self.error)

    @property
    def high(self) -> float:
        """Tokens a second, if the model of this machine wrongs it."""
        return self.output_tokens_per_s * (1 + self.error)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether it fits. `is_close` marks a yes or no within the error of the model."""

    fits: bool
    reason: str
    budget: Budget
    is_close: bool = False

    @property
    def kv_tokens(self) -> int:
        """Tokens that the cache holds."""
        return max(0, self.budget.kv_tokens)

    @property
    def sequences(self) -> float:
        """How many sequences of the longest length the cache holds."""
        return max(0.0, self.budget.sequences)


@dataclass(frozen=True, slots=True)
class Fit:
    """What is known of one model, engine and machine; `calibrate` returns a truer one."""

    ground: Ground
    device: Device
    reached: Efficiency
    correction: Correction = memory.NONE
    error: float = 1.0
    starts: tuple[Start, ...] = ()

    @classmethod
    def of(cls, ground: Ground) -> "Fit":
        """What can be said before any start."""
        here = device.of(ground.machine)
        usual = roofline.efficiency(ground.engine, here)
        return cls(ground, here, usual, error=1.5 if here.is_guess else 0.4)

    def predict(self, options: Mapping[str, Scalar], workload: Workload) -> Prediction:
        """What `workload` should show when the engine runs with these options added."""
        every = {**self.ground.default, **options}
        budget = self._budget(every)
        found = roofline.expect(
            self.ground, self.device, every, workload, self.reached, max(1, budget.kv_tokens)
        )
        return Prediction(
            output_tokens_per_s=found.output_tokens_per_s,
            ttft_s=found.ttft_s,
            tpot_s=found.tpot_s,
            memory_bytes=budget.total_bytes - min(0, budget.kv_bytes),
            error=self.error,
            bound_by=found.bound_by,
        )

    def verdict(self, options: Mapping[str, Scalar]) -> Verdict:
        """Whether the engine will start with these options added, and hold the load."""
        every = {**self.ground.default, **options}
        budget = self._budget(every)
        if self.ground.engine == "llamacpp":
            return _whole(budget)
        lacking = self._not_free(every, budget)
        return lacking or _cache(budget, self._shortest(every))

    def calibrate(
        self,
        options: Mapping[str, Scalar],
        facts: Mapping[str, object],
        measurements: Mapping[Workload, Measurement] | Sequence[tuple[Workload, Measurement]] = (),
    ) -> "Fit":
        """Learn from a start with these options: what its log said, and what loads showed."""
        pairs = measurements.items() if isinstance(measurements, Mapping) else measurements
        return self.calibrate_all([Start(options, facts, tuple(pairs))])

    def calibrate_all(self, starts: Sequence[Start]) -> "Fit":
        """Learn from several starts in one go; their options are those that were added."""
        added = (replace(s, options={**self.ground.default, **s.options}) for s in starts)
        known = (*self.starts, *added)
        correction = calibration.memory_of(self.ground, self.device, known)
        bare = Fit.of(self.ground)
        reached, error = calibration.speed_of(
            self.ground, self.device, bare.reached, correction, known
        )
        return replace(
            self,
            correction=correction,
            reached=reached,
            error=bare.error if error is None else error,
            starts=known,
        )

    def _budget(self, options: Mapping[str, Scalar]) -> Budget:
        return memory.budget(self.ground, self.device, options, self.correction)

    def _shortest(self, options: Mapping[str, Scalar]) -> int:
        """The length that must fit at least: with `auto` vLLM lowers the limit by itself."""
        if str(options.get("max_model_len", "")) in {"auto", "-1"}:
            return self.ground.longest_tokens
        return memory.context_tokens(self.ground, options)

    def _not_free(self, options: Mapping[str, Scalar], budget: Budget) -> Verdict | None:
        """vLLM refuses to start when what it may use is not free."""
        free = self.device.free_bytes
        short = budget.total_bytes - free
        explicit = count(options, "kv_cache_memory_bytes", 0)
        if explicit:
            used = budget.weight_bytes + budget.activation_bytes + budget.overhead_bytes
            short = round(used + budget.graph_bytes + explicit - free)
        if short <= 0:
            return None
        reason = (
            f"it needs {(free + short) / GIB:.1f} GiB and {free / GIB:.1f} GiB are free "
            f"on {self.device.name}"
        )
        # Without an explicit size vLLM compares before it does anything else: no grey zone.
        certain = short > MARGIN * free or not explicit
        return Verdict(not certain, reason, budget, is_close=short <= MARGIN * free)


def _cache(budget: Budget, shortest: int) -> Verdict:
    """Whether what is left holds keys and values of one sequence of `shortest` tokens."""
    weights, room = budget.weight_bytes / GIB, budget.kv_bytes / GIB
    if budget.kv_bytes <= 0:
        close = -budget.kv_bytes <= MARGIN * budget.total_bytes
        reason = (
            f"weights ({weights:.1f} GiB) and working memory leave nothing of "
            f"{budget.total_bytes / GIB:.1f} GiB for keys and values"
        )
        return Verdict(close, reason, budget, is_close=close)
    share = budget.kv_tokens / max(1, shortest)
    reason = (
        f"{room:.2f} GiB of keys and values hold {budget.kv_tokens} tokens: "
        f"{share:.1f} sequences of {shortest}"
    )
    return Verdict(share >= 1 - MARGIN, reason, budget, is_close=abs(share - 1) <= MARGIN)


def _whole(budget: Budget) -> Verdict:
    """llama.cpp takes weights and context at once, or is killed."""
    used = budget.weight_bytes + budget.activation_bytes + budget.overhead_bytes
    needed, total = used + budget.sequence_bytes, budget.total_bytes
    reason = (
        f"weights, {budget.kv_tokens} tokens of context and working memory take "
        f"{needed / GIB:.2f} GiB, and {total / GIB:.2f} GiB are free"
    )
    close = abs(needed - total) <= MARGIN * total
    return Verdict(needed <= total * (1 + MARGIN), reason, budget, is_close=close)
