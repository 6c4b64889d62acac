"""Metrics by name: where they lie in a measurement, which way is better, how they read."""

import math
import re
from collections.abc import Mapping
from typing import Any

_LATENCY = re.compile(r"(ttft|itl|tpot|e2e)(?:_s)?[._](mean|p50|p95|p99)")
LATENCIES = {"ttft_s": "TTFT", "itl_s": "ITL", "tpot_s": "TPOT", "e2e_s": "E2E"}
QUANTILES = ("mean", "p50", "p95", "p99")
_LABELS = {
    "output_tokens_per_s": "output tokens/s",
    "total_tokens_per_s": "total tokens/s",
    "requests_per_s": "requests/s",
    "goodput_per_s": "requests/s within the limits",
    "peak_memory_bytes": "peak memory",
}
DEFINITIONS = (
    ("TTFT", "time from the request's bytes handed to the socket to the first chunk with content"),
    ("ITL", "gap between one chunk with content and the next"),
    ("TPOT", "(last content - first content) / (output tokens - 1); the first token is not in it"),
    ("E2E", "time from the request's bytes handed to the socket to the last chunk with content"),
    ("output tokens/s", "tokens that arrived within the window / length of the window"),
    ("goodput", "requests/s that met every limit; a failed one met none"),
    ("failed", "refused, cut short, malformed or too late; never counted as a fast request"),
    ("gain", "how many times better than the default: above 1 is better, whatever the metric"),
    ("95 % interval", "where the true value lies in 95 of 100 such experiments"),
)


def label(name: str) -> str:
    """How people call the metric: `ttft_s.p95` is `TTFT p95`."""
    found = _LATENCY.fullmatch(name)
    if found:
        return f"{found[1].upper()} {found[2]}"
    return _LABELS.get(name, name.replace("_", " "))


def lower_is_better(name: str) -> bool:
    """Times and memory are better when small, rates when large."""
    return bool(_LATENCY.fullmatch(name)) or name in ("peak_memory_bytes", "failed")


def value(measurement: Mapping[str, Any], name: str) -> float | None:
    """The metric's value in the JSON of a measurement; None where it is not there."""
    found = _LATENCY.fullmatch(name)
    holder = measurement.get(f"{found[1]}_s") if found else measurement
    number = (holder or {}).get(found[2] if found else name)
    if isinstance(number, bool) or not isinstance(number, int | float):
        return None
    return float(number) if math.isfinite(number) else None


def reading(name: str, number: float | None) -> str:
    """The value with its unit, in three digits; an en dash where there is none."""
    if number is None:
        return "–"
    if name == "peak_memory_bytes":
        return f"{digits(number / 1024**3)} GiB"
    if _LATENCY.fullmatch(name):
        return f"{digits(number * 1000)} ms" if number < 1 else f"{digits(number)} s"
    return digits(number)


def digits(number: float) -> str:
    """Three significant digits, never as a power of ten."""
    if number == 0 or not math.isfinite(number):
        return f"{number:g}"
    places = max(0, 2 - math.floor(math.log10(abs(number))))
    return f"{number:,.{min(places, 9)}f}"


def ratio(number: float) -> str:
    """How many times, in three decimals."""
    return f"{number:.3f}×"
