"""Workload: a load that can be repeated exactly."""

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from vllama.bench.arrivals import Process

Kind: TypeAlias = Literal["completion", "chat", "embed"]
Asks: TypeAlias = Literal["text", "tool", "json"]
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

    `asks` is what an answer must be: free text, a call of a tool, or JSON of a schema (their
    length is the model's affair). A chat of several `turns` sends one more turn of the same
    conversation each time. `spread` varies lengths evenly by this share to either side.
    `cancel_share` of the requests are hung up on in the middle of their answer. `dataset` is
    a JSONL file whose prompts are sent as they are. `replay` is a file of recorded traffic, of
    which each request has a length of its own; then the lengths here are means, the rate and
    shared prefix too, and `longest_...` tell of the longest prompt, and the longest with answer.

    With `rate_to_per_s` the rate rises (or falls) evenly to that over the window. `trace` is a
    file of the times at which requests arrive; they are stretched to the mean of `rate_per_s`.
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
    asks: Asks = "text"
    turns: int = 1
    spread: float = 0.0
    cancel_share: float = 0.0
    dataset: str = ""
    longest_prompt_tokens: int = 0
    longest_tokens: int = 0
    replay: str = ""
    rate_to_per_s: float | None = None
    trace: str = ""

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
        return (
            self.kind,
            self.asks,
            self.prompt_tokens,
            self.output_tokens,
            self.concurrency,
            self.stream,
            self.replay,
        )
