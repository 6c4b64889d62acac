"""From what starts showed to a truer model: a few numbers, held near the usual ones."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vllama.bench.measurement import Measurement
from vllama.bench.workload import Workload
from vllama.profile import Scalar
from vllama.tuner import memory, roofline
from vllama.tuner.device import Device
from vllama.tuner.knob import Ground, count
from vllama.tuner.memory import Correction
from vllama.tuner.roofline import Efficiency

# How far the truth may lie from the usual: of bytes, of a scale, and of logarithms of rates.
_OFFSET_SD, _SCALE_SD, _RATE_SD = 1024.0**3, 1.0, 1.0
_BYTES_NOISE = 24.0 * 1024**2
# A log ratio beyond this is taken for a mishap and counts for less.
_OUTLIER = 0.25
_METRICS = {"output_tokens_per_s": 1.0, "tpot_s": 0.7, "ttft_s": 0.3}
_FLOOR = 0.05
Vector: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Start:
    """One start: its options, the facts of its log, and what loads showed on it."""

    options: Mapping[str, Scalar]
    facts: Mapping[str, object]
    measurements: tuple[tuple[Workload, Measurement], ...] = ()


def memory_of(ground: Ground, device: Device, starts: Sequence[Start]) -> Correction:
    """What the logs teach of memory: scales where a part was told, one offset for the rest."""
    bare = Correction(
        weight_scale=_scale(ground, device, starts, "model_memory_bytes", "weight_bytes"),
        activation_scale=_scale(
            ground, device, starts, "activation_memory_bytes", "activation_bytes"
        ),
        graph_scale=_scale(ground, device, starts, "graph_memory_bytes", "graph_bytes"),
    )
    told = any("activation_memory_bytes" in s.facts for s in starts)
    residuals = [
        pair for s in starts if (pair := _kv_residual(ground, device, s, bare)) is not None
    ]
    if not residuals:
        return bare
    offset, slope = _line(residuals, _SCALE_SD if not told else 1e-6)
    return Correction(
        offset_bytes=offset,
        activation_scale=bare.activation_scale * max(0.0, 1 + slope),
        graph_scale=bare.graph_scale,
        weight_scale=bare.weight_scale,
    )


def _scale(ground: Ground, device: Device, starts: Sequence[Start], fact: str, part: str) -> float:
    """Told bytes over expected ones, the median over the starts that told; 1 if none did."""
    ratios = []
    for start in starts:
        told = _number(start.facts.get(fact))
        expected = getattr(memory.budget(ground, device, start.options), part)
        if told and expected > 0:
            ratios.append(told / expected)
    return sorted(ratios)[len(ratios) // 2] if ratios else 1.0


def _kv_residual(
    ground: Ground, device: Device, start: Start, bare: Correction
) -> tuple[float, float] | None:
    """Expected activation bytes, and how much less room for the cache was left than expected."""
    tokens = _number(start.facts.get("kv_cache_tokens"))
    if ground.engine == "llamacpp" or not tokens:
        return None
    if count(start.options, "kv_cache_memory_bytes", 0):
        # The size was given, so its log says nothing of what is left over.
        return None
    expected = memory.budget(ground, device, start.options, bare)
    if expected.kv_tokens <= 0:
        each = expected.sequence_bytes / max(1, expected.context_tokens)
    else:
        each = expected.kv_bytes / expected.kv_tokens
    actual = _number(start.facts.get("kv_cache_bytes")) or tokens * each
    return float(expected.activation_bytes), expected.kv_bytes - actual


def _line(points: Sequence[tuple[float, float]], slope_sd: float) -> tuple[float, float]:
    """Offset and slope of `y = offset + slope * x`, drawn towards nought by their spreads."""
    noise = _BYTES_NOISE**2
    a = len(points) / noise + 1 / _OFFSET_SD**2
    b = sum(x for x, _ in points) / noise
    c = sum(x * x for x, _ in points) / noise + 1 / slope_sd**2
    u = sum(y for _, y in points) / noise
    v = sum(x * y for x, y in points) / noise
    determinant = a * c - b * b
    return (u * c - v * b) / determinant, (a * v - b * u) / determinant


def speed_of(
    ground: Ground,
    device: Device,
    usual: Efficiency,
    correction: Correction,
    starts: Sequence[Start],
) -> tuple[Efficiency, float | None]:
    """The efficiencies that explain the measurements best, and the error that is left.

    Least squares on log ratios, with outliers held down (Huber) and each number drawn
    towards the usual one. The error is None when nothing was measured.
    """
    points = _points(starts)
    if not points:
        return usual, None
    tokens = [
        max(1, memory.budget(ground, device, p.options, correction).kv_tokens) for p in points
    ]
    base = np.log([usual.bandwidth, usual.flops, usual.host_step_s, usual.host_sequence_s])

    def ratios(shift: Vector) -> Iterator[tuple[str, float]]:
        """Each metric of each point: the logarithm of expected over measured."""
        reached = Efficiency(*(float(x) for x in np.exp(base + shift)))
        for point, room in zip(points, tokens, strict=True):
            expected = roofline.expect(ground, device, point.options, point.load, reached, room)
            for name, measured in point.values.items():
                yield name, math.log(max(getattr(expected, name) / measured, 1e-9))

    def residuals(shift: Vector) -> Vector:
        return np.array([_METRICS[name] * ratio for name, ratio in ratios(shift)])

    shift = _least_squares(residuals, len(base))
    left = [abs(ratio) for name, ratio in ratios(shift) if name == "output_tokens_per_s"]
    error = math.expm1(1.5 * float(np.median(left))) * (1 + 1 / len(points))
    return Efficiency(*(float(x) for x in np.exp(base + shift))), max(_FLOOR, error)


@dataclass(frozen=True, slots=True)
class _Point:
    options: Mapping[str, Scalar]
    load: Workload
    values: Mapping[str, float]


def _points(starts: Sequence[Start]) -> list[_Point]:
    found = []
    for start in starts:
        for load, measured in start.measurements:
            if not measured.completed or measured.output_tokens_per_s <= 0:
                continue
            values = {"output_tokens_per_s": measured.output_tokens_per_s}
            for name in ("ttft_s", "tpot_s"):
                mean = measured.metric(f"{name}.mean")
                if mean:
                    values[name] = mean
            found.append(_Point(start.options, load, values))
    return found


def _least_squares(
    residuals: Callable[[Vector], Vector],
    size: int,
) -> Vector:
    """Gauss-Newton with Huber weights, a pull to nought, and steps that must improve."""

    def cost(shift: Vector) -> float:
        r = np.abs(residuals(shift))
        robust = np.where(r <= _OUTLIER, 0.5 * r**2, _OUTLIER * (r - 0.5 * _OUTLIER))
        return float(np.sum(robust) / _FLOOR**2 + 0.5 * np.sum(shift**2) / _RATE_SD**2)

    shift, best = np.zeros(size), cost(np.zeros(size))
    for _ in range(25):
        r = residuals(shift)
        steps = [residuals(shift + 1e-4 * e) - r for e in np.eye(size)]
        jacobian = np.stack(steps, axis=1) / 1e-4
        weight = np.minimum(1.0, _OUTLIER / np.maximum(np.abs(r), 1e-12)) / _FLOOR**2
        curve = jacobian.T @ (weight[:, None] * jacobian) + np.eye(size) / _RATE_SD**2
        move = -np.linalg.solve(curve, jacobian.T @ (weight * r) + shift / _RATE_SD**2)
        for share in (1.0, 0.5, 0.25, 0.05):
            tried = cost(shift + share * move)
            if tried < best - 1e-9:
                shift, best = shift + share * move, tried
                break
        else:
            break
    return shift


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
