"""The simulated card and model: how long a step takes, and what fits into memory."""

from collections.abc import Mapping
from dataclasses import dataclass

from vllama.errors import EngineFailed
from vllama.profile import Scalar

GB = 1e9
OVERLAP = 0.15
BYTES_PER_GRAPH = 6e6


@dataclass(frozen=True, slots=True)
class Limits:
    """What the options leave the scheduler."""

    max_num_seqs: int
    max_num_batched_tokens: int
    kv_cache_tokens: int
    max_model_len: int = 8192
    graph_cap: int = 512
    async_scheduling: bool = True
    kv_bytes_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class World:
    """A card and a model. Rates are what is reached, not the data sheet's peak."""

    memory_bytes: float = 80 * GB
    flops_per_s: float = 500e12
    bandwidth_bytes_per_s: float = 2.4e12
    weight_bytes: float = 16 * GB
    parameters: float = 8e9
    layers: int = 32
    hidden_size: int = 4096
    vocabulary: int = 128_256
    kv_bytes_per_token: float = 131_072.0
    driver_bytes: float = 0.9 * GB
    non_torch_bytes: float = 0.6 * GB
    host_s: float = 1.2e-3
    host_s_per_sequence: float = 9e-6

    def step_s(
        self,
        limits: Limits,
        prefill_tokens: int,
        decoding: int,
        context: float,
        attended: float,
        running: int,
    ) -> float:
        """One step: the card's work by roofline, and what the host adds to it.

        `context` is the KV tokens that decoding reads, `attended` the pairs of prefill.
        """
        tokens = prefill_tokens + decoding
        attention = 4 * self.layers * self.hidden_size * (attended + context)
        compute_s = (2 * self.parameters * tokens + attention) / self.flops_per_s
        kv_bytes = context * self.kv_bytes_per_token * limits.kv_bytes_factor
        traffic = self.weight_bytes + kv_bytes + 8 * self.layers * self.hidden_size * tokens
        memory_s = traffic / self.bandwidth_bytes_per_s
        card_s = max(compute_s, memory_s) + OVERLAP * min(compute_s, memory_s)
        if limits.kv_bytes_factor < 1:
            card_s += prefill_tokens * 6e-8 + decoding * 1e-6
        host_s = self.host_s + self.host_s_per_sequence * running + prefill_tokens * 2e-8
        if limits.async_scheduling:
            host_s = max(0.3 * self.host_s, host_s - 0.85 * card_s)
        return card_s + host_s + self._launch_s(limits, tokens, prefill_tokens)

    def _launch_s(self, limits: Limits, tokens: int, prefill_tokens: int) -> float:
        """Launching kernels one by one costs more than replaying a captured graph."""
        if tokens > limits.graph_cap:
            return 1.2 * self.host_s
        return (0.25 if prefill_tokens else 0.1) * self.host_s

    def limits(self, options: Mapping[str, Scalar]) -> Limits:
        """What these options leave, under vLLM's names.

        Raises:
            EngineFailed: as vLLM would fail: of kind `bad_option` or `out_of_memory`, with
                the phase.
        """
        seqs = int(options.get("max_num_seqs", 256))
        batched = int(options.get("max_num_batched_tokens", 2048))
        length = int(options.get("max_model_len", 8192))
        if batched < seqs:
            raise _failed(
                f"max_num_batched_tokens ({batched}) must be greater than or equal to"
                f" max_num_seqs ({seqs})", "bad_option", "parse",
            )  # fmt: skip
        cap = int(options.get("max_cudagraph_capture_size", 512))
        factor = 0.5 if "fp8" in str(options.get("kv_cache_dtype", "auto")) else 1.0
        tokens = self._kv_tokens(options, seqs, batched, cap, factor)
        if tokens < length:
            raise _failed(
                f"To serve at least one request with the models's max seq len ({length}), more"
                " KV cache memory is needed. Based on the available memory, the estimated"
                f" maximum model length is {tokens}.", "out_of_memory", "profile",
            )  # fmt: skip
        return Limits(
            seqs, batched, tokens, length, cap,
            bool(options.get("async_scheduling", True)), factor,
        )  # fmt: skip

    def _kv_tokens(
        self, options: Mapping[str, Scalar], seqs: int, batched: int, cap: int, factor: float
    ) -> int:
        share = float(options.get("gpu_memory_utilization", 0.92))
        activation = batched * self.hidden_size * 20 + seqs * self.vocabulary * 4.4
        taken = self.weight_bytes + activation + cap / 8 * BYTES_PER_GRAPH + self.non_torch_bytes
        room = self.memory_bytes * share - taken
        if self.weight_bytes > self.memory_bytes - self.driver_bytes:
            raise _failed("CUDA out of memory while loading the weights", "out_of_memory", "load")
        if room <= 0:
            raise _failed(
                "No available memory for the cache blocks. Try increasing"
                " `gpu_memory_utilization` when initializing the engine.",
                "out_of_memory", "profile",
            )  # fmt: skip
        # What the profile run does not see: fragments, the driver, graphs' workspace.
        peak = self.memory_bytes * share + self.driver_bytes + 0.35 * activation
        if peak > self.memory_bytes * 0.995:
            raise _failed("CUDA out of memory while capturing graphs", "out_of_memory", "graph")
        return int(room / (self.kv_bytes_per_token * factor))


def _failed(message: str, kind: str, phase: str) -> EngineFailed:
    return EngineFailed(message, kind=kind, phase=phase)


SMALL = World(
    memory_bytes=8 * GB,
    flops_per_s=20e12,
    bandwidth_bytes_per_s=0.8e12,
    weight_bytes=0.8 * GB,
    parameters=0.4e9,
    layers=16,
    hidden_size=1024,
    vocabulary=32_000,
    kv_bytes_per_token=16_384.0,
    driver_bytes=0.1 * GB,
    non_torch_bytes=0.1 * GB,
    host_s=1e-3,
)
WORLDS: Mapping[str, World] = {"small": SMALL, "8b-80gb": World()}
