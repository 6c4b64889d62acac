"""Workload: a load that can be repeated exactly."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Workload:
    """What is sent, how much of it at once, and for how long.

    Closed loop: `concurrency` requests are kept in flight until `requests` are done or
    `duration_s` is over. Open loop when `rate_per_s` is given: arrivals are drawn before
    the run and latency counts from the scheduled time. Lengths are in tokens, exact.
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

    def with_seed(self, seed: int) -> "Workload":
        """The same load with other prompts."""
        return replace(self, seed=seed)
