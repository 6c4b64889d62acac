"""Workload: a load that can be repeated exactly."""

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from vllama.bench.arrivals import Process

Kind: TypeAlias = Literal["completion", "chat", "embed"]
_WAVES = 4
_FEWEST = 16


@dataclass(frozen=True, slots=True)
class Workload:
    """What is sent, how much of it at once, and for how long.

    Closed loop: `concurrency` requests are kept in flight until `requests` are done or
    `duration_s` is over. Open loop when `rate_per_s` is given: arrivals are drawn before
    the run and latency counts from the scheduled time. Lengths are in tokens, exact.
    The first `shared_prefix_tokens` of every prompt are the same. `slo` are limits in seconds
    that a request must keep to count as good: `ttft`, `tpot`, `e2e`.
    """

    name: str
    prompt_tokens: int
    output_tokens: int
    concurrency: int = 1
    requests: int | None = None
    duration_s: float | None = None
    rate_per_s: float | None = None
    shared_prefix_tokens: int = 0
    stream: bool = True
    seed: int = 0
    kind: Kind = "completion"
    timeout_s: float = 600.0
    arrivals: Process = "poisson"
    cv: float = 1.0
    slo: tuple[tuple[str, float], ...] = ()

    def with_seed(self, seed: int) -> "Workload":
        """The same load with other prompts."""
        return replace(self, seed=seed)

    @property
    def request_goal(self) -> int | None:
        """How many requests are measured; None when the time decides."""
        if self.requests is not None:
            return self.requests
        if self.duration_s is not None:
            return None
        return max(_FEWEST, _WAVES * self.concurrency)

    @property
    def shape(self) -> tuple[object, ...]:
        """Equal for loads that warm the same paths of an engine."""
        return (self.kind, self.prompt_tokens, self.output_tokens, self.concurrency, self.stream)
