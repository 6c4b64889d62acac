"""K-quantisation: 256 weights in one block, its small blocks' scales quantised themselves.

The layouts are llama.cpp's (`block_q4_K`, `block_q6_K`); the search for good scales is a plain
least-squares fit, refined twice.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 256
_ROUNDS = 2
Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


def q4_k(rows: Floats) -> Bytes:
    """4 bits a weight, with a scale and a minimum for each 32: `d·sc·q - dmin·m`."""
    x = rows.reshape(-1, 8, 32).astype(np.float32)
    scale, low = _fit(x)
    d = _half(scale.max(axis=1, keepdims=True) / 63)
    dmin = _half(low.max(axis=1, keepdims=True) / 63)
    sc = np.clip(np.rint(_ratio(scale, d)), 0, 63).astype(np.uint8)
    m = np.clip(np.rint(_ratio(low, dmin)), 0, 63).astype(np.uint8)
    step, offset = (d * sc)[..., None], (dmin * m)[..., None]
    q = np.clip(np.rint(_ratio(x + offset, step)), 0, 15).astype(np.uint8)
    pairs = q.reshape(-1, 4, 2, 32)
    nibbles = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)
    parts = (_raw(d), _raw(dmin), _packed(sc, m), nibbles)
    return _joined(parts, rows)


def q6_k(rows: Floats) -> Bytes:
    """6 bits a weight, with a scale for each 16: `d·sc·(q - 32)`."""
    x = rows.reshape(-1, 16, 16).astype(np.float32)
    at = np.abs(x).argmax(axis=2, keepdims=True)
    # The largest weight takes -32, the end of the range that reaches further.
    scale = (np.take_along_axis(x, at, axis=2) / -32).squeeze(2)
    d = _half(np.abs(scale).max(axis=1, keepdims=True) / 127)
    sc = np.clip(np.rint(_ratio(scale, d)), -128, 127).astype(np.int8)
    q = np.rint(_ratio(x, (d * sc)[..., None]))
    q = (np.clip(q, -32, 31) + 32).astype(np.uint8).reshape(-1, 2, 4, 32)
    low, high = q & 15, q >> 4
    ql = np.stack([low[:, :, 0] | low[:, :, 2] << 4, low[:, :, 1] | low[:, :, 3] << 4], axis=2)
    qh = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    parts = (ql.reshape(-1, 128), qh.reshape(-1, 64), sc.view(np.uint8), _raw(d))
    return _joined(parts, rows)


def _fit(x: Floats) -> tuple[Floats, Floats]:
    """Scale and minimum (as a positive number) of each small block, for 16 steps."""
    low = np.maximum(-x.min(axis=2), 0)
    scale = (np.maximum(x.max(axis=2), -low) + low) / 15
    best = _error(x, scale, low)
    for _ in range(_ROUNDS):
        q = _steps(x, scale, low)
        mean_q, mean_x = q.mean(axis=2), x.mean(axis=2)
        spread = (q * q).mean(axis=2) - mean_q**2
        slope = _ratio((q * x).mean(axis=2) - mean_q * mean_x, spread)
        offset = np.maximum(slope * mean_q - mean_x, 0)
        error = _error(x, slope, offset)
        is_better = (error < best) & (slope > 0)
        scale = np.where(is_better, slope, scale)
        low = np.where(is_better, offset, low)
        best = np.where(is_better, error, best)
    return scale, low


def _steps(x: Floats, scale: Floats, low: Floats) -> Floats:
    steps: Floats = np.clip(np.rint(_ratio(x + low[..., None], scale[..., None])), 0, 15)
    return steps


def _error(x: Floats, scale: Floats, low: Floats) -> Floats:
    rest = x + low[..., None] - scale[..., None] * _steps(x, scale, low)
    error: Floats = (rest * rest).sum(axis=2)
    return error


def _packed(sc: Bytes, m: Bytes) -> Bytes:
    """Eight 6-bit scales and eight 6-bit minima in twelve bytes."""
    first = sc[:, :4] | (sc[:, 4:] >> 4) << 6
    second = m[:, :4] | (m[:, 4:] >> 4) << 6
    third = (sc[:, 4:] & 15) | (m[:, 4:] & 15) << 4
    return np.concatenate((first, second, third), axis=1)


def _joined(parts: Sequence[NDArray[Any]], rows: Floats) -> Bytes:
    blocks: Bytes = np.concatenate(parts, axis=1)
    return blocks.reshape(*rows.shape[:-1], -1)


def _half(values: Any) -> Floats:
    """As a 16-bit float will hold it, so that what follows fits what is stored."""
    rounded: Floats = values.astype(np.float16).astype(np.float32)
    return rounded


def _raw(values: Floats) -> Bytes:
    return values.astype("<f2").view(np.uint8)


def _ratio(above: Any, below: Any) -> Floats:
    """Above by below, and nothing where below is nothing."""
    ratio: Floats = np.divide(above, below, out=np.zeros_like(above + below), where=below != 0)
    return ratio
