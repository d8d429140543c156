"""Lines of a readout: regularised logistic regressions on one part of what is known of a user.

Shapes: R rows, V numbers that the lines read, C classes, J rows that folds judge, P penalties.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qanchor.probe.linear import REACH, standard
from qanchor.probe.logistic import Basis, fit
from qanchor.probe.metrics import auc
from qanchor.training.sample import Sample

PENALTIES = np.logspace(-3, 0.5, 8)
"""Tried weights of half a line's squared norm against the mean log loss."""
TOLERANCE = 1e-3
"""Ten times a probe's, for half of its time: no AUC differs by more than .001."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Lines:
    """One for each class that is read."""

    mean_V: Floats
    scale_V: Floats
    line_CV: Floats
    """Coefficients of standardised values, cut at `REACH`; what they add up to is in log odds, but for a constant."""
    told_CJ: Floats
    """What the folds' own lines say of those whom they have not seen, less each fold's mean."""


def fitted(X_RV: Floats, sample: Sample) -> Lines:
    """By the training rows of the sample; its folds choose each line's penalty."""
    mean_V, scale_V = standard(X_RV[sample.train])
    standard_RV = ((X_RV - mean_V) * scale_V).clip(-REACH, REACH)
    basis = Basis(standard_RV[sample.train])
    classes = len(sample.label_CR)
    line_CV = np.zeros((classes, X_RV.shape[1]), np.float32)
    told_CJ = np.zeros((classes, len(sample.judged)), np.float32)
    for c, label_R in enumerate(sample.label_CR):
        line_CV[c], told_CJ[c] = _line(standard_RV, label_R, sample, basis)
    return Lines(mean_V, scale_V, line_CV, told_CJ)


def _line(X: Floats, label_R: Floats, sample: Sample, basis: Basis) -> tuple[Floats, Floats]:
    """[V] a regression's coefficients at the best of `PENALTIES`, and [J] what the folds' say."""

    def path(rows: Ints) -> Floats:
        once = np.ones((len(rows), len(PENALTIES)), np.float32)
        return fit(X[rows], label_R[rows], once, PENALTIES, basis, TOLERANCE)

    told = [X[fold.validation] @ path(fold.train) for fold in sample.folds]
    auc_FP = [
        [auc(label_R[fold.validation], score) for score in of.T] for fold, of in zip(sample.folds, told, strict=True)
    ]
    best = int(np.argmax(np.average(auc_FP, 0, [len(of) for of in told])))
    return path(sample.train)[:, best], np.concatenate([of[:, best] - of[:, best].mean() for of in told])
