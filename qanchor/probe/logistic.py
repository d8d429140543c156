"""Logistic regressions, many at once on the same features: every penalty and every resample in one descent.

The K regressions minimise, each with its own row weights w (of sum 1) and penalty,
    sum_n w_n log(1 + exp(-s_n (x_n beta + bias))) + penalty / 2 |beta|^2,    s_n = 1 for a positive, else -1.
Their Hessians at the start differ from the features' second moment only by scale, so one eigendecomposition brings all
of them near the identity; L-BFGS then needs about ten steps, each of two matrix products. A test holds the outcome to
scikit-learn's, whose fits, one at a time, take up to twenty times as long (`docs/decisions/0002-probe.md`). One thread
does the products: they are small, and on a busy machine two threads wait for each other ten times as long as they work.

Shapes: N rows, D features, K regressions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit
from threadpoolctl import threadpool_limits

Array = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

TOLERANCE = 1e-4
"""Largest component of the gradient, in coordinates in which the Hessian is near the identity, where a fit ends."""


class Basis:
    """The eigenvectors and eigenvalues of the features' second moment: what makes every descent on them short."""

    def __init__(self, X: Array) -> None:
        """From standardised [N, D] features (a sample of the rows to be fitted will do)."""
        with threadpool_limits(1):
            values, vectors = np.linalg.eigh((X.T @ X).astype(np.float64) / max(len(X), 1))
        self.values: Doubles = np.maximum(values, 0)
        self.vectors: Array = vectors.astype(np.float32)


def fit(X: Array, y: Array, times: Array, penalties: Doubles, basis: Basis, tolerance: float = TOLERANCE) -> Array:
    """The K regressions' coefficients, [D, K]; a bias is fitted too, but no ranking needs it.

    Args:
        X: [N, D] standardised features.
        y: [N] 0 or 1, both present.
        times: [N, K] how often regression k counts row n; each has rows of both classes.
        penalties: [K].
        basis: of these or similar features; it changes the speed only.
    """
    shape = (X.shape[1] + 1, len(penalties))
    weight = (times / times.sum(axis=0)).astype(np.float32)
    sign = np.where(y > 0, 1, -1).astype(np.float32)[:, None]
    rate = (weight * (sign > 0)).sum(axis=0, dtype=np.float64)
    curvature = rate * (1 - rate)
    scale = 1 / np.sqrt(curvature * basis.values[:, None] + penalties)
    bias_scale = 1 / np.sqrt(curvature)

    def coefficients(point: Doubles) -> Array:
        beta: Array = basis.vectors @ (point[:-1] * scale).astype(np.float32)
        return beta

    def loss(flat: Doubles) -> tuple[float, Doubles]:
        point = flat.reshape(shape)
        beta = coefficients(point)
        margin = sign * (X @ beta + (point[-1] * bias_scale).astype(np.float32))
        log_loss = np.maximum(-margin, 0) + np.log1p(np.exp(-np.abs(margin)))
        value = (weight * log_loss).sum(dtype=np.float64) + (penalties * np.square(beta, dtype=np.float64)).sum() / 2
        pull = -sign * weight * expit(-margin)
        slope = X.T @ pull + penalties.astype(np.float32) * beta
        gradient = np.vstack([(basis.vectors.T @ slope) * scale, pull.sum(axis=0, dtype=np.float64) * bias_scale])
        return float(value), gradient.ravel()

    start = np.zeros(shape)
    start[-1] = np.log(rate / (1 - rate)) / bias_scale
    with threadpool_limits(1):
        found = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"gtol": tolerance, "maxiter": 200})
    return coefficients(found.x.reshape(shape))
