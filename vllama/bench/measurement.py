"""Measurement: what one load showed. Pure arithmetic over samples, nothing that runs."""

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from vllama.bench.said import Said

# A quantile whose 95 % distribution-free interval does not fit the sample is not shown.
P95_NEEDS = 72
P99_NEEDS = 368
CANCELLED = "cancelled"
INVALID = "invalid"
_TOO_BUSY = 0.85
_TOO_NEAR = 0.8
_LATE_S = 0.001
_LATE_SHARE = 0.1
_COMPLIANT = 0.99
_JOINT_WINDOW_S = 1.0
_JOINT_WINDOWS = 20
LATENCIES = ("ttft_s", "itl_s", "tpot_s", "e2e_s")
QUANTILES = ("mean", "p50", "p95", "p99")


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. Times in seconds on one monotonic clock.

    `scheduled_s` is when it should have left, `sent_s` when its bytes were handed to the
    socket. `chunk_s` are the arrivals of chunks that carried content, `end_s` the last of
    them (of the body where nothing was streamed). A sample with an `error` (`refused`,
    `reset`, `timeout`, `http-503`, `malformed`, `cut-short`, `server-error`) counts as
    failed, never as fast; one that the client `cancelled` counts as neither. `measured` is
    False for those that only keep the load up.
    """

    scheduled_s: float
    sent_s: float
    end_s: float
    chunk_s: tuple[float, ...] = ()
    prompt_tokens: int = 0
    output_tokens: int = 0
    error: str | None = None
    measured: bool = True
    asked_prompt_tokens: int = 0
    asked_output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """The samples of one load and its steady window, on the samples' clock.

    `said` is the text of a few answers.
    """

    samples: tuple[Sample, ...]
    start_s: float
    end_s: float
    peak_memory_bytes: int | None = None
    suspect: tuple[str, ...] = ()
    slo: tuple[tuple[str, float], ...] = ()
    client: Mapping[str, float] = field(default_factory=dict)
    counters: Mapping[str, float] = field(default_factory=dict)
    said: tuple[Said, ...] = ()

    @property
    def duration_s(self) -> float:
        return max(self.end_s - self.start_s, 0.0)


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
    tokens_per_chunk: float | None = None
    ttft_scheduled_s: Quantiles | None = None
    e2e_scheduled_s: Quantiles | None = None
    queue_s: Quantiles | None = None
    good_share: float | None = None
    joint_compliance: float | None = None
    client: Mapping[str, float] = field(default_factory=dict)
    cancelled: int = 0
    counters: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As `vllama bench --json` prints it."""
        return asdict(self)

    def metric(self, name: str) -> float | None:
        """A figure by its name, such as `output_tokens_per_s` or `ttft_s.p95`."""
        holder, _, part = name.partition(".")
        value = getattr(self, holder, None)
        if part:
            value = getattr(value, part, None)
        return float(value) if isinstance(value, int | float) else None


def summarize(*runs: Run) -> Measurement:
    """What these runs of the same load showed together."""
    every = [s for run in runs for s in run.samples if s.measured]
    measured = [s for s in every if s.error != CANCELLED]
    good = [s for s in measured if s.error is None]
    duration_s = sum(run.duration_s for run in runs)
    requests, output, prompt = _in_windows(runs)
    per_s = 1 / duration_s if duration_s > 0 else 0.0
    peaks = [run.peak_memory_bytes for run in runs if run.peak_memory_bytes is not None]
    chunks = sum(len(s.chunk_s) for s in good)
    good_share = _good_share(runs)
    return Measurement(
        duration_s=duration_s,
        completed=len(good),
        failed=len(measured) - len(good),
        requests_per_s=requests * per_s,
        output_tokens_per_s=output * per_s,
        total_tokens_per_s=(output + prompt) * per_s,
        prompt_tokens=sum(s.prompt_tokens for s in good),
        output_tokens=sum(s.output_tokens for s in good),
        ttft_s=quantiles([s.chunk_s[0] - s.sent_s for s in good if s.chunk_s]),
        itl_s=quantiles([b - a for s in good for a, b in pairwise(s.chunk_s)]),
        tpot_s=quantiles([t for s in good if (t := _tpot(s)) is not None]),
        e2e_s=quantiles([s.end_s - s.sent_s for s in good]),
        ttft_scheduled_s=quantiles([s.chunk_s[0] - s.scheduled_s for s in good if s.chunk_s]),
        e2e_scheduled_s=quantiles([s.end_s - s.scheduled_s for s in good]),
        cancelled=len(every) - len(measured),
        queue_s=quantiles([s.sent_s - s.scheduled_s for s in measured]),
        good_share=good_share,
        goodput_per_s=_goodput(runs, good_share, duration_s),
        joint_compliance=_joint(runs),
        client=worst(runs),
        counters=dict(runs[-1].counters) if runs else {},
        peak_memory_bytes=max(peaks, default=None),
        failures=dict(Counter(s.error for s in measured if s.error is not None)),
        suspect=_suspect(runs, good),
        tokens_per_chunk=sum(s.output_tokens for s in good if s.chunk_s) / chunks
        if chunks
        else None,
    )


def quantiles(values: Sequence[float]) -> Quantiles | None:
    """Mean and quantiles, those that the sample supports."""
    if not values:
        return None
    ordered = sorted(values)
    n = len(ordered)
    return Quantiles(
        mean=math.fsum(ordered) / n,
        p50=_at(ordered, 0.5),
        p95=_at(ordered, 0.95) if n >= P95_NEEDS else None,
        p99=_at(ordered, 0.99) if n >= P99_NEEDS else None,
    )


def doubts(good: Sequence[Sample]) -> tuple[str, ...]:
    """Why these figures deserve no trust, as far as the counts of tokens tell."""
    found = []
    for what, pairs in (
        ("prompt", [(s.asked_prompt_tokens, s.prompt_tokens) for s in good]),
        ("output", [(s.asked_output_tokens, s.output_tokens) for s in good]),
    ):
        # Nothing was asked where the length is the model's affair.
        pairs = [(asked, got) for asked, got in pairs if asked]
        off = [(asked, got) for asked, got in pairs if abs(asked - got) > 2]
        if len(off) > 0.01 * len(pairs):
            got_mean = sum(got for _, got in off) / len(off)
            found.append(
                f"{len(off)} of {len(pairs)} requests: {what} tokens asked {off[0][0]}, "
                f"the server counted {got_mean:.1f}"
            )
    # A chunk with content is a token at least, whatever the length was to be.
    under = [s for s in good if len(s.chunk_s) > s.output_tokens + 2]
    if len(under) > 0.01 * len(good):
        found.append(
            f"{len(under)} of {len(good)} requests: {len(under[0].chunk_s)} chunks with content "
            f"came, the server counted {under[0].output_tokens} tokens"
        )
    return tuple(found)


def _suspect(runs: Sequence[Run], good: Sequence[Sample]) -> tuple[str, ...]:
    found = [reason for run in runs for reason in run.suspect]
    client = worst(runs)
    busy, late_s = client.get("busy", 0.0), client.get("lag_p99_s", 0.0)
    if busy > _TOO_BUSY:
        found.append(f"{INVALID}: the client was the limit, busy {busy:.0%} of a core")
    if (load := _client_load(runs, client)) > _TOO_NEAR:
        found.append(
            f"{INVALID}: the client was the limit: so many chunks took {load:.0%} of what its "
            "test on loopback says that it can carry"
        )
    ttft = quantiles([s.chunk_s[0] - s.sent_s for s in good if s.chunk_s])
    if ttft is not None and late_s > max(_LATE_S, _LATE_SHARE * ttft.p50):
        found.append(
            f"the client's clock ran up to {1000 * late_s:.1f} ms late (p99): latencies are "
            "uncertain by that; leave it a core of its own"
        )
    return tuple(dict.fromkeys((*found, *doubts(good))))


def _client_load(runs: Sequence[Run], client: Mapping[str, float]) -> float:
    """The share of the client's capacity, by its own test, that the chunks of a load took."""
    seconds = sum(run.duration_s for run in runs)
    chunks = sum(len(s.chunk_s) for run in runs for s in run.samples)
    cost_s = client.get("chunk_cost_s", 0.0) / client.get("processes", 1.0)
    return cost_s * chunks / seconds if seconds > 0 else 0.0


def keeps(sample: Sample, slo: Sequence[tuple[str, float]]) -> bool:
    """Whether one request met every limit; a failed one met none.

    TTFT and E2E count from when it was due, so that no queue is hidden.
    """
    if sample.error is not None:
        return False
    times = {"e2e": sample.end_s - sample.scheduled_s, "tpot": _tpot(sample)}
    times["ttft"] = sample.chunk_s[0] - sample.scheduled_s if sample.chunk_s else None
    return all((t := times[name]) is None or t <= limit for name, limit in slo)


def _good_share(runs: Sequence[Run]) -> float | None:
    kept = [keeps(s, run.slo) for run in runs if run.slo for s in run.samples if s.measured]
    return sum(kept) / len(kept) if kept else None


def _goodput(runs: Sequence[Run], share: float | None, duration_s: float) -> float | None:
    if share is None or duration_s <= 0:
        return None
    return share * sum(s.measured for run in runs for s in run.samples) / duration_s


def _joint(runs: Sequence[Run]) -> float | None:
    """The share of the time in which 99 % of the requests that ended met all limits at once."""
    held = windows = 0
    for run in runs:
        if not run.slo:
            continue
        length_s = max(_JOINT_WINDOW_S, run.duration_s / _JOINT_WINDOWS)
        by_window: dict[int, list[bool]] = {}
        for s in run.samples:
            if s.measured:
                at = int((s.end_s - run.start_s) // length_s)
                by_window.setdefault(at, []).append(keeps(s, run.slo))
        windows += len(by_window)
        held += sum(sum(kept) >= _COMPLIANT * len(kept) for kept in by_window.values())
    return held / windows if windows else None


def worst(runs: Sequence[Run]) -> dict[str, float]:
    """The client's own figures: the worst of the runs."""
    names = {name for run in runs for name in run.client}
    return {n: max(run.client[n] for run in runs if n in run.client) for n in sorted(names)}


def _in_windows(runs: Sequence[Run]) -> tuple[float, float, float]:
    """Requests, output tokens and prompt tokens that fall into the steady windows.

    Streamed tokens count where they arrived. What has no arrival of its own (a request, its
    prompt, an answer that came whole) counts by the share of its life inside the window:
    over a steady load that is unbiased, and free of the jumps at the window's edges.
    """
    requests = output = prompt = 0.0
    for run in runs:
        for s in run.samples:
            if s.error is not None:
                continue
            life_s = s.end_s - s.sent_s
            inside_s = min(s.end_s, run.end_s) - max(s.sent_s, run.start_s)
            share = min(max(inside_s / life_s, 0.0), 1.0) if life_s > 0 else 0.0
            requests += share
            prompt += share * s.prompt_tokens
            if s.chunk_s:
                within = bisect_right(s.chunk_s, run.end_s) - bisect_left(s.chunk_s, run.start_s)
                share = within / len(s.chunk_s)
            output += share * s.output_tokens
    return requests, output, prompt


def _tpot(sample: Sample) -> float | None:
    if len(sample.chunk_s) < 2 or sample.output_tokens < 2:
        return None
    return (sample.chunk_s[-1] - sample.chunk_s[0]) / (sample.output_tokens - 1)


def _at(ordered: Sequence[float], quantile: float) -> float:
    """Linear between the two nearest values, as numpy's default."""
    position = quantile * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)
