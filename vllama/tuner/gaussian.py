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
    apart = (x[:, None, :] - x[None, :, :]) ** 2

    def loss(theta: Array) -> tuple[float, Array]:
        """The negative log posterior and its gradient (Rasmussen and Williams, eq. 5.9)."""
        kernel, slopes = _kernel_and_slopes(apart, theta)
        noise = float(np.exp(2 * theta[-1]))
        try:
            factor = linalg.cholesky(_with_noise(kernel, noise), lower=True)
        except linalg.LinAlgError:
            return 1e10, np.zeros_like(theta)
        inverse = linalg.cho_solve((factor, True), np.eye(len(x)))
        weights = inverse @ centred
        left = inverse - np.outer(weights, weights)
        gradient = np.concatenate(
            [[np.sum(left * kernel)], 0.5 * np.einsum("ij,ijk->k", left, slopes),
             [noise * np.trace(left)]]
        )  # fmt: skip
        evidence = 0.5 * float(centred @ weights) + float(np.sum(np.log(np.diag(factor))))
        strained = (theta - start) / width
        return evidence + 0.5 * float(strained @ strained), gradient + strained / width

    bounds = [(v - 3 * w, v + 3 * w) for v, w in zip(start, width, strict=True)]
    found = optimize.minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 40}
    )
    return _process(x, y, np.asarray(found.x, dtype=float))


def like(known: Process, x: Array, y: Array) -> Process:
    """The process that explains `y` with the scales, amplitude and noise that are known."""
    theta = np.log(np.concatenate([[known.amplitude], known.scales, [known.noise]]))
    return _process(x, y, theta)


def _process(x: Array, y: Array, theta: Array) -> Process:
    mean = float(np.median(y))
    factor = linalg.cholesky(_covariance(x, theta), lower=True)
    return Process(
        x=x,
        mean=mean,
        scales=np.exp(theta[1:-1]),
        amplitude=float(np.exp(theta[0])),
        noise=float(np.exp(theta[-1])),
        factor=factor,
        weights=linalg.cho_solve((factor, True), y - mean),
    )


def _covariance(x: Array, theta: Array) -> Array:
    kernel = _kernel(x, x, np.exp(theta[1:-1]), float(np.exp(theta[0])))
    return _with_noise(kernel, float(np.exp(2 * theta[-1])))


def _with_noise(kernel: Array, variance: float) -> Array:
    return kernel + (variance + _JITTER) * np.eye(len(kernel))


def _kernel_and_slopes(apart: Array, theta: Array) -> tuple[Array, Array]:
    """The kernel of points whose coordinates are `apart` (squared), and its derivative by each
    log scale as the last axis.
    """
    scaled = apart * np.exp(-2 * theta[1:-1])
    r = np.sqrt(5 * np.sum(scaled, axis=2))
    fallen = np.exp(2 * theta[0] - r)
    return fallen * (1 + r + r**2 / 3), (5 / 3 * fallen * (1 + r))[:, :, None] * scaled


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
