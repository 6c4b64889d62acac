"""What is expected of a configuration before it is measured: the analytic model's word."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from vllama.bench.measurement import Measurement, Quantiles
from vllama.bench.workload import Workload
from vllama.profile import Scalar
from vllama.tuner.calibration import Start
from vllama.tuner.fit import Fit, Prediction
from vllama.tuner.objective import Objective
from vllama.tuner.trial import Trial


@dataclass(frozen=True, slots=True)
class Expected:
    """A log `value` as the objective gives it, how far limits are exceeded, whether it starts."""

    value: float
    excesses: Mapping[str, float]
    fits: bool
    reason: str = ""


class Prior(Protocol):
    """An opinion on every configuration; trials may change it."""

    def expect(self, options: Mapping[str, Scalar]) -> Expected:
        """What to expect of it."""
        ...

    def after(self, trials: Sequence[Trial]) -> "Prior":
        """The same opinion, with what these trials taught."""
        ...


class Flat:
    """No opinion."""

    def expect(self, options: Mapping[str, Scalar]) -> Expected:  # noqa: ARG002
        """Everything alike."""
        return Expected(0.0, {}, True)

    def after(self, trials: Sequence[Trial]) -> "Flat":  # noqa: ARG002
        """Nothing changes it."""
        return self


@dataclass(frozen=True, slots=True)
class Analytic:
    """The opinion of `fit`, as the objective sees it."""

    fit: Fit
    objective: Objective
    workloads: tuple[Workload, ...]

    def expect(self, options: Mapping[str, Scalar]) -> Expected:
        """Predicted figures, judged as measured ones are."""
        verdict = self.fit.verdict(options)
        predicted = {w.name: _as_measured(self.fit.predict(options, w)) for w in self.workloads}
        limits = self.objective.broken(predicted)
        return Expected(self.objective.value(predicted), limits, verdict.fits, verdict.reason)

    def after(self, trials: Sequence[Trial]) -> "Analytic":
        """Calibrated anew from the bare model with every start that came up."""
        loads = {w.name: w for w in self.workloads}
        starts = [
            Start(t.options, t.facts, tuple((loads[n], m) for n, m in pairs if n in loads))
            for t in trials
            if (pairs := t.measurements.items())
        ]
        fit = Fit.of(self.fit.ground).calibrate_all(starts)
        return Analytic(fit, self.objective, self.workloads)


def _as_measured(predicted: Prediction) -> Measurement:
    def always(value: float) -> Quantiles:
        return Quantiles(mean=value, p50=value, p95=None, p99=None)

    rate = predicted.output_tokens_per_s
    return Measurement(
        duration_s=1.0, completed=1, failed=0, requests_per_s=rate, output_tokens_per_s=rate,
        total_tokens_per_s=rate, prompt_tokens=0, output_tokens=0, ttft_s=always(predicted.ttft_s),
        itl_s=always(predicted.tpot_s), tpot_s=always(predicted.tpot_s), e2e_s=None,
        peak_memory_bytes=predicted.memory_bytes,
    )  # fmt: skip
