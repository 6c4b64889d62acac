"""How fast a step can be, and what a load sees of it: bandwidth, arithmetic, and the host."""

from collections.abc import Mapping
from dataclasses import dataclass

from vllama.bench.workload import Workload
from vllama.profile import Scalar
from vllama.tuner import memory
from vllama.tuner.device import Device
from vllama.tuner.knob import Ground, count
from vllama.tuner.knobs_vllm import batch_defaults

_NO_GRAPH_S = 1.5e-3


@dataclass(frozen=True, slots=True)
class Efficiency:
    """The few numbers that a data sheet does not tell: shares reached, and the host's time."""

    bandwidth: float
    flops: float
    host_step_s: float
    host_sequence_s: float


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a load should show. `running` is how many sequences decode together."""

    output_tokens_per_s: float
    ttft_s: float
    tpot_s: float
    running: float
    bound_by: str


def efficiency(engine: str, device: Device) -> Efficiency:
    """The usual ones of an engine on a kind of device, before anything was measured."""
    if engine == "llamacpp":
        if device.is_cpu:
            return Efficiency(0.6, 0.4, 0.15e-3, 0.15e-3)
        return Efficiency(0.65, 0.3, 0.3e-3, 0.05e-3)
    if device.is_cpu:
        return Efficiency(0.5, 0.4, 2.8e-3, 0.25e-3)
    return Efficiency(0.75, 0.5, 0.8e-3, 5e-6)


def expect(
    ground: Ground,
    device: Device,
    options: Mapping[str, Scalar],
    load: Workload,
    reached: Efficiency,
    kv_tokens: int,
) -> Expectation:
    """What `load` should show: a closed loop in its steady state, mean values throughout."""
    limit, budget = _limits(ground, options)
    length = load.prompt_tokens + load.output_tokens
    prompt = _prompt_to_compute(ground, options, load)
    wanted = float(load.concurrency)
    running = max(1.0, min(wanted, limit, kv_tokens / max(1, length)))
    decodes = max(1, load.output_tokens)
    step = _Step(ground, device, options, reached)
    # In the steady state each step takes in the prompts of those that have just finished.
    arriving = running * prompt / decodes
    crowd = max(1.0, (running + arriving) / budget)
    context = load.prompt_tokens + load.output_tokens / 2
    seconds = step.seconds(running, arriving / crowd, context)
    rate = running / (decodes * seconds * crowd)
    if load.rate_per_s and load.rate_per_s < rate:
        running = max(1.0, running * load.rate_per_s / rate)
        arriving = running * prompt / decodes
        seconds, crowd, rate = step.seconds(running, arriving, context), 1.0, load.rate_per_s
    room = max(1.0, budget - running)
    chunks = max(1.0, prompt / room)
    first = chunks * step.seconds(running, min(prompt, room), load.prompt_tokens)
    queue = max(0.0, wanted - running) / rate if not load.rate_per_s else 0.0
    return Expectation(
        output_tokens_per_s=rate * load.output_tokens,
        ttft_s=queue + first,
        tpot_s=seconds * crowd,
        running=running,
        bound_by=step.bound_by(running, arriving / crowd, context),
    )


def _limits(ground: Ground, options: Mapping[str, Scalar]) -> tuple[int, int]:
    """How many sequences, and how many tokens, a step may have."""
    if ground.engine == "llamacpp":
        return max(1, count(options, "n_parallel", 1)), count(options, "n_batch", 2048)
    tokens, sequences = batch_defaults(ground)
    return (
        count(options, "max_num_seqs", sequences),
        count(options, "max_num_batched_tokens", tokens),
    )


def _prompt_to_compute(ground: Ground, options: Mapping[str, Scalar], load: Workload) -> float:
    """Prompt tokens that no cache spares; whole blocks only are spared."""
    if ground.engine == "llamacpp" or options.get("enable_prefix_caching", True) in (True, "true"):
        block = 1 if ground.engine == "llamacpp" else 16 if ground.on_gpu else 128
        shared = load.shared_prefix_tokens // block * block
        return float(max(1, load.prompt_tokens - shared))
    return float(load.prompt_tokens)


@dataclass(frozen=True, slots=True)
class _Step:
    ground: Ground
    device: Device
    options: Mapping[str, Scalar]
    reached: Efficiency

    def seconds(self, running: float, arriving: float, context: float) -> float:
        """One step that decodes `running` sequences and reads `arriving` prompt tokens."""
        moved, computed = self._moved(running, arriving, context), self._computed(running, arriving)
        # The shorter of the two hides only in part behind the longer.
        work = max(moved, computed) + 0.15 * min(moved, computed)
        return work + self._host(running, arriving)

    def bound_by(self, running: float, arriving: float, context: float) -> str:
        parts = {
            "memory bandwidth": self._moved(running, arriving, context),
            "arithmetic": self._computed(running, arriving),
            "the host": self._host(running, arriving),
        }
        return max(parts, key=lambda name: parts[name])

    def _tensor(self) -> int:
        return count(self.options, "tensor_parallel_size", 1)

    def _moved(self, running: float, arriving: float, context: float) -> float:
        shape = self.ground.model.shape
        tokens = running + arriving
        weights = (shape.weight_bytes - shape.expert_bytes) + shape.expert_bytes * _touched(
            shape.experts, shape.experts_per_token, tokens
        )
        weights *= memory.weight_share(self.ground, self.options)
        cached = running * shape.sequence_bytes(round(context))
        cached *= memory.kv_share(self.ground, self.options)
        bandwidth = self.device.bandwidth_bytes_per_s * self._threads(tokens, saturates=0.5)
        return (weights + cached) / (self._tensor() * bandwidth * self.reached.bandwidth)

    def _computed(self, running: float, arriving: float) -> float:
        shape = self.ground.model.shape
        tokens = running + arriving
        eight_bits = shape.quantization in {"FP8", "F8_E4M3"} and self.device.fp8_flops
        flops = self.device.fp8_flops if eight_bits else self.device.flops
        flops *= self._tensor() * self._threads(tokens) * self.reached.flops
        return 2 * shape.active_parameters * tokens / flops

    def _threads(self, tokens: float, saturates: float = 1.0) -> float:
        """Share of the cores' power that the threads asked for have, up to `saturates` of all.

        llama.cpp takes `threads` for a step of one token only.
        """
        if self.ground.engine != "llamacpp" or not self.device.is_cpu:
            return 1.0
        cores = self.ground.machine.cpu.cores
        given = count(self.options, "threads", cores)
        if tokens > 1:
            given = count(self.options, "threads_batch", given)
        return min(1.0, max(1, given) / (cores * saturates))

    def _host(self, running: float, arriving: float) -> float:
        host, each = self.reached.host_step_s, self.reached.host_sequence_s
        interval = max(1, count(self.options, "stream_interval", 1))
        each *= 0.5 + 0.5 / interval
        eager = (
            self.ground.engine != "llamacpp" and (count(self.options, "optimization_level", 2) == 0)
        ) or bool(self.options.get("enforce_eager"))
        if eager:
            host *= 1.6 if self.device.is_cpu else 4.0
        elif self.ground.engine != "llamacpp" and not self.device.is_cpu:
            top = count(self.options, "max_cudagraph_capture_size", 512)
            host += _NO_GRAPH_S if running + arriving > top else 0.0
        tensor = self._tensor()
        if tensor > 1:
            # Two sums over all GPUs a layer; through the host bus where nothing links them.
            one = 8e-6 if self.device.fast_links else 30e-6
            host += 2 * self.ground.model.shape.layers * one
        return host + running * each


def _touched(experts: int, chosen: int, tokens: float) -> float:
    """Share of the experts that a batch of `tokens` reads."""
    if not experts or not chosen:
        return 1.0
    return float(1 - (1 - chosen / experts) ** max(1.0, tokens))
