"""Limits that a service must keep, such as `ttft_p95=500ms`."""

import math
import re
from dataclasses import dataclass

from vllama import durations
from vllama.bench.measurement import Measurement, Quantiles
from vllama.errors import UsageError

_FORM = re.compile(r"(ttft|itl|tpot|e2e)_(mean|p50|p95|p99)=(.+)")


@dataclass(frozen=True, slots=True)
class Slo:
    """`metric` (`ttft`, `itl`, `tpot`, `e2e`) at `quantile` must not exceed `limit_s`."""

    metric: str
    quantile: str
    limit_s: float

    @property
    def name(self) -> str:
        """As the user writes it: `ttft_p95`."""
        return f"{self.metric}_{self.quantile}"

    def excess(self, measured: Measurement) -> float:
        """log(measured / limit): above 0 it is broken. What was not measured breaks it.

        Where too few requests were measured for the quantile, the next lower one is taken.
        """
        quantiles: Quantiles | None = getattr(measured, f"{self.metric}_s")
        if quantiles is None:
            return math.inf
        value = quantile(quantiles, self.quantile)
        return math.log(max(value, 1e-9) / self.limit_s)

    def __str__(self) -> str:
        return f"{self.name}={self.limit_s * 1000:g}ms"


def quantile(quantiles: Quantiles, name: str) -> float:
    """The quantile `name`, or the highest one below it that the sample is large enough for."""
    if name == "mean":
        return quantiles.mean
    for lower in {"p99": ("p99", "p95"), "p95": ("p95",)}.get(name, ()):
        value: float | None = getattr(quantiles, lower)
        if value is not None:
            return value
    return quantiles.p50


def parse(text: str) -> Slo:
    """Read `ttft_p95=500ms`.

    Raises:
        UsageError: it is not of that form.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise UsageError(
            f"'{text}' is no limit", "Write it like ttft_p95=500ms: ttft, itl, tpot or e2e, then "
            "mean, p50, p95 or p99."
        )  # fmt: skip
    try:
        limit_s = durations.parse(found[3])
    except ValueError as error:
        raise UsageError(f"'{text}': {error}", "Write the limit like 500ms or 1.5s.") from error
    if limit_s <= 0:
        raise UsageError(f"'{text}': a limit must be above zero")
    return Slo(found[1], found[2], limit_s)
