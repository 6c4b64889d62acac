"""Outlook: what to expect of a model on a machine, present or not, before anything is started."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from vllama.bench.workload import Workload
from vllama.machine import GIB, Machine
from vllama.model import Model
from vllama.profile import Scalar
from vllama.tuner import gpus
from vllama.tuner.fit import Fit, Prediction, Verdict
from vllama.tuner.knob import Ground

PROMPT_TOKENS, OUTPUT_TOKENS = 512, 128
_MOST = 256


@dataclass(frozen=True, slots=True)
class Rate:
    """What so many requests in flight should show."""

    concurrency: int
    prediction: Prediction


@dataclass(frozen=True, slots=True)
class Outlook:
    """The answers. `sequences` is how many contexts of `context_tokens` fit at once."""

    model: Model
    machine: Machine
    engine: str
    options: Mapping[str, Scalar]
    context_tokens: int
    verdict: Verdict
    sequences: int
    longest_tokens: int
    rates: tuple[Rate, ...]
    advice: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As `vllama plan --json` prints it."""
        shape, budget = self.model.shape, self.verdict.budget
        return {
            "format": 1,
            "model": self.model.name,
            "engine": self.engine,
            "machine": self.machine.fingerprint,
            "gpus": [g.name for g in self.machine.gpus],
            "options": dict(self.options),
            "fits": self.verdict.fits,
            "is_close": self.verdict.is_close,
            "reason": self.verdict.reason,
            "parameters": shape.parameters,
            "active_parameters": shape.active_parameters,
            "weights_bytes": shape.weight_bytes,
            "kv_bytes_per_token": shape.kv_bytes_per_token,
            "kv_capacity_tokens": self.verdict.kv_tokens,
            "context_tokens": self.context_tokens,
            "sequences_at_context": self.sequences,
            "longest_context_tokens": self.longest_tokens,
            "memory": {k: v for k, v in asdict(budget).items() if k.endswith("_bytes")},
            "workload": {"prompt_tokens": PROMPT_TOKENS, "output_tokens": OUTPUT_TOKENS},
            "expected": [
                {
                    "concurrency": r.concurrency,
                    "output_tokens_per_s": r.prediction.output_tokens_per_s,
                    "low": r.prediction.low,
                    "high": r.prediction.high,
                    "ttft_s": r.prediction.ttft_s,
                    "tpot_s": r.prediction.tpot_s,
                    "bound_by": r.prediction.bound_by,
                }
                for r in self.rates
            ],
            "advice": list(self.advice),
        }


def look(
    model: Model,
    machine: Machine,
    engine: str,
    *,
    version: str = "",
    context_tokens: int = 0,
    concurrency: int = 0,
) -> Outlook:
    """What to expect of `model` on `machine`; 0 for the model's own context, and for as many
    requests as make sense."""
    trained = model.shape.context_length or 8192
    context = min(context_tokens, trained) if context_tokens else trained
    options = _options(model, machine, engine, context)
    fit = _fit(model, machine, engine, version, options, context)
    verdict, slots = _most_sequences(fit, options, context, concurrency)
    longest = _longest(fit, options, trained)
    most = concurrency or max(1, min(_MOST, _running(fit, slots)))
    rates = tuple(
        Rate(n, fit.predict({**options, **slots}, _load(n, context)))
        for n in sorted({1, most})
        if verdict.fits
    )
    return Outlook(
        model=model,
        machine=machine,
        engine=engine,
        options={**options, **slots},
        context_tokens=context,
        verdict=verdict,
        sequences=_sequences(engine, verdict, slots, context),
        longest_tokens=longest,
        rates=rates,
        advice=_advice(fit, options, verdict, longest),
    )


def _options(model: Model, machine: Machine, engine: str, context: int) -> dict[str, Scalar]:
    """How it would be launched: over all cards whose number divides the heads."""
    if engine == "llamacpp":
        return {"n_parallel": 1, "n_ctx": context}
    options: dict[str, Scalar] = {"max_model_len": context}
    shards = 1
    while shards * 2 <= len(machine.gpus) and model.shape.heads % (shards * 2) == 0:
        shards *= 2
    if shards > 1:
        options["tensor_parallel_size"] = shards
    if not machine.gpus:
        options["gpu_memory_utilization"] = round(
            0.9 * machine.available_bytes / machine.memory_bytes, 2
        )
    return options


def _fit(
    model: Model,
    machine: Machine,
    engine: str,
    version: str,
    options: Mapping[str, Scalar],
    context: int,
) -> Fit:
    load = (_load(1, context),)
    return Fit.of(Ground(model, machine, engine, version, frozenset(), options, load))


def _load(concurrency: int, context: int) -> Workload:
    output = min(OUTPUT_TOKENS, max(1, context // 4))
    prompt = min(PROMPT_TOKENS, max(1, context - output))
    return Workload("plan", prompt, output, concurrency=concurrency)


def _most_sequences(
    fit: Fit, options: Mapping[str, Scalar], context: int, concurrency: int
) -> tuple[Verdict, dict[str, Scalar]]:
    """The verdict, and for llama.cpp as many slots of whole contexts as memory holds."""
    verdict = fit.verdict(options)
    if fit.ground.engine != "llamacpp" or not verdict.fits:
        return verdict, {}
    slots = 1
    for more in (2, 4, 8, 16, 32, 64, concurrency):
        wider: dict[str, Scalar] = {"n_parallel": more, "n_ctx": more * context}
        if more > slots and fit.verdict({**options, **wider}).fits:
            slots = more
    if slots == 1:
        return verdict, {}
    found: dict[str, Scalar] = {"n_parallel": slots, "n_ctx": slots * context}
    return fit.verdict({**options, **found}), found


def _sequences(engine: str, verdict: Verdict, slots: Mapping[str, Scalar], context: int) -> int:
    if not verdict.fits:
        return 0
    if engine == "llamacpp":
        return int(slots.get("n_parallel", 1))
    return max(1, int(verdict.kv_tokens / max(1, context)))


def _running(fit: Fit, slots: Mapping[str, Scalar]) -> int:
    """Requests of the planned load that the cache holds together."""
    if fit.ground.engine == "llamacpp":
        return int(slots.get("n_parallel", 1))
    length = PROMPT_TOKENS + OUTPUT_TOKENS
    tokens = fit.verdict({}).kv_tokens
    return int(2 ** int(math.log2(max(1, tokens // length))))


def _longest(fit: Fit, options: Mapping[str, Scalar], trained: int) -> int:
    """The longest context of which one fits, in steps of 256; 0 when not even that."""
    name = "n_ctx" if fit.ground.engine == "llamacpp" else "max_model_len"
    low, high = 0, trained // 256
    while low < high:
        middle = (low + high + 1) // 2
        found = fit.verdict({**options, name: middle * 256})
        low, high = (middle, high) if found.fits else (low, middle - 1)
    return min(trained, low * 256) if low < trained // 256 else trained


def _advice(
    fit: Fit, options: Mapping[str, Scalar], verdict: Verdict, longest: int
) -> tuple[str, ...]:
    """What to do when it does not fit, or barely."""
    found = []
    if verdict.is_close:
        found.append("This is within the error of the estimate: only a start will tell.")
    if not verdict.fits:
        if longest:
            found.append(f"A context of {longest} tokens would fit: --context {longest}.")
        if fit.ground.model.shape.quantization in {"BF16", "F16", "F32"}:
            found.append("Weights quantised to 4 bits would take about a quarter of the room.")
        if fit.ground.machine.gpus or not longest:
            card = _smallest(fit, options)
            found.append(f"It fits on one {card}." if card else "No single known card holds it.")
    return tuple(found)


def _smallest(fit: Fit, options: Mapping[str, Scalar]) -> str:
    """The known card with the least memory on which it fits."""
    alone = {k: v for k, v in options.items() if not k.endswith("_parallel_size")}
    vendors: Sequence[str] = ("nvidia", "amd") if fit.ground.engine == "vllm" else ("nvidia",)
    cards = sorted(
        (c for c in gpus.known() if c.vendor in vendors), key=lambda c: (c.memory_bytes, c.name)
    )
    for card in cards:
        ground = replace(fit.ground, machine=gpus.named(card.name), default=alone)
        if Fit.of(ground).verdict({}).fits:
            return f"{card.name} ({card.memory_bytes / GIB:.0f} GiB)"
    return ""
