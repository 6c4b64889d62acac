"""Measurement: what one load showed. Pure arithmetic over samples, nothing that runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. Times in seconds on one monotonic clock.

    `scheduled_s` is when it should have left, `sent_s` when its bytes were handed to the
    socket. `chunk_s` are the arrivals of chunks that carried content. A sample with an
    `error` (`refused`, `reset`, `timeout`, `http-503`, `malformed`, `cut-short`) counts as
    failed, never as fast.
    """

    scheduled_s: float
    sent_s: float
    end_s: float
    chunk_s: tuple[float, ...] = ()
    prompt_tokens: int = 0
    output_tokens: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Mean and quantiles in seconds; one is None where the sample is too small for it."""

    mean: float
    p50: float
    p95: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a load showed; tokens are the server's own count (`usage`)."""

    duration_s: float
    completed: int
    failed: int
    requests_per_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    prompt_tokens: int
    output_tokens: int
    ttft_s: Quantiles | None
    itl_s: Quantiles | None
    tpot_s: Quantiles | None
    e2e_s: Quantiles | None
    goodput_per_s: float | None = None
    peak_memory_bytes: int | None = None
    failures: Mapping[str, int] = field(default_factory=dict)
    suspect: tuple[str, ...] = ()
