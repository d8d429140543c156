"""The two numbers of the paper's tables, both read off one ROC curve."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[Any]


def auc(label: Vector, score: Vector) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, a tie counting one half.

    `label` [N] of 0 and 1, `score` [N] without NaN. NaN when a class is missing.
    """
    false_rate, true_rate = _roc(label, score)
    return float(np.trapezoid(true_rate, false_rate))


def ks(label: Vector, score: Vector) -> float:
    """Kolmogorov-Smirnov: the largest distance between the two classes' distributions of the score, whatever its sign.

    `label` [N] of 0 and 1, `score` [N] without NaN. NaN when a class is missing.
    """
    false_rate, true_rate = _roc(label, score)
    return float(np.abs(true_rate - false_rate).max())


def _roc(label: Vector, score: Vector) -> tuple[Vector, Vector]:
    """False and true positive rates from (0, 0) to (1, 1), one point a distinct score: tied rows move together."""
    order = np.argsort(-score, kind="stable")
    positive = label[order] > 0
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    true = np.concatenate([[0], np.cumsum(positive)[ends]]) if len(order) else np.zeros(1)
    false = np.concatenate([[0], np.cumsum(~positive)[ends]]) if len(order) else np.zeros(1)
    if not true[-1] or not false[-1]:
        return np.full(2, np.nan), np.full(2, np.nan)
    return false / false[-1], true / true[-1]
