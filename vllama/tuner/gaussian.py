"""A Gaussian process for few, noisy points: Matern 5/2, one length scale for each coordinate."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize, special

Array: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]
_LENGTH, _NOISE = np.log(0.7), np.log(0.01)
_JITTER = 1e-8


@dataclass(frozen=True, slots=True)
class Process:
    """Fitted to points `x` (rows) and values that vary around `mean`."""

    x: Array
    mean: float
    scales: Array
    amplitude: float
    noise: float
    factor: Array
    weights: Array

    def predict(self, at: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the function itself, without a measurement's noise."""
        cross = _kernel(at, self.x, self.scales, self.amplitude)
        mean = self.mean + cross @ self.weights
        solved = linalg.solve_triangular(self.factor, cross.T, lower=True)
        variance = self.amplitude**2 - np.sum(solved**2, axis=0)
        return mean, np.sqrt(np.maximum(variance, 1e-12))


def fit(x: Array, y: Array, usual: float = 0.05) -> Process:
    """The process that explains `y` best, kept near what is usual while there are few points.

    `usual` is how far values usually lie from their mean. Scales, amplitude and noise are a
    maximum a posteriori estimate: with ten points a likelihood alone believes anything.
    """
    mean = float(np.median(y))
    spread = max(usual, float(np.std(y)))
    start = np.concatenate([[np.log(spread)], np.full(x.shape[1], _LENGTH), [_NOISE]])
    width = np.concatenate([[0.7], np.full(x.shape[1], 0.9), [0.6]])
    centred = y - mean

    def loss(theta: Array) -> float:
        covariance = _covariance(x, theta)
        try:
            factor = linalg.cholesky(covariance, lower=True)
        except linalg.LinAlgError:
            return 1e10
        solved = linalg.solve_triangular(factor, centred, lower=True)
        evidence = 0.5 * float(solved @ solved) + float(np.sum(np.log(np.diag(factor))))
        return evidence + 0.5 * float(np.sum(((theta - start) / width) ** 2))

    bounds = [(v - 3 * w, v + 3 * w) for v, w in zip(start, width, strict=True)]
    found = optimize.minimize(
        loss, start, method="L-BFGS-B", bounds=bounds, options={"maxiter": 40}
    )
    theta = np.asarray(found.x, dtype=float)
    factor = linalg.cholesky(_covariance(x, theta), lower=True)
    return Process(
        x=x,
        mean=mean,
        scales=np.exp(theta[1:-1]),
        amplitude=float(np.exp(theta[0])),
        noise=float(np.exp(theta[-1])),
        factor=factor,
        weights=linalg.cho_solve((factor, True), centred),
    )


def _covariance(x: Array, theta: Array) -> Array:
    kernel = _kernel(x, x, np.exp(theta[1:-1]), float(np.exp(theta[0])))
    return kernel + (float(np.exp(2 * theta[-1])) + _JITTER) * np.eye(len(x))


def _kernel(one: Array, other: Array, scales: Array, amplitude: float) -> Array:
    a, b = one / scales, other / scales
    squared = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1)[None, :] - 2 * a @ b.T
    r = np.sqrt(5 * np.maximum(squared, 0))
    matern: Array = amplitude**2 * (1 + r + r**2 / 3) * np.exp(-r)
    return matern


def log_expected_improvement(mean: Array, sd: Array, best: float) -> Array:
    """log EI, exact far out in the tail, where EI itself is zero in floating point."""
    z = (mean - best) / sd
    near = z * special.ndtr(z) + np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    # For z far below zero: phi(z) / z^2, the first term of the asymptotic series.
    far = -0.5 * z**2 - 0.5 * np.log(2 * np.pi) - 2 * np.log(np.maximum(-z, 1.0))
    log_h = np.where(z > -6, np.log(np.maximum(near, 1e-300)), far)
    result: Array = np.log(sd) + log_h
    return result


def probability_below_zero(mean: Array, sd: Array) -> Array:
    """P(value <= 0)."""
    result: Array = special.ndtr(-mean / sd)
    return result
