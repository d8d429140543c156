"""What a scenario's readout says: what tells its classes best, by logistic regressions and trees (`model/readout.py`).

The tally, what the query reads and what the towers have learned are each asked alone by a line, under a penalty of its
own, and the tally's amounts by a forest. What they say, in log odds, is added up: side by side in one regression the
widest of them drowns the others. Training users fit; penalties, the number of trees, and how far each is to be believed
are decided by users and days that it has not seen (`folds.py`; docs/decisions/0010-readout.md, 0011-forest.md).

Shapes: R rows, Y numbers of a tally, Z numbers of a suffix's own, V that lines read, C classes read, P parts that are
asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from scipy.special import expit

from qanchor.model.batch import FOR_FORESTS, FOR_LINES
from qanchor.model.readout import LINES, Readout, alike, by_forest
from qanchor.probe.linear import REACH, standard
from qanchor.probe.logistic import Basis, fit
from qanchor.probe.metrics import auc
from qanchor.training import forests
from qanchor.training.folds import Fold, folds

CLASSES = 16
"""Scenarios of more classes have no readout: an embedding has better uses for its numbers."""
PENALTIES = np.logspace(-3, 0.5, 8)
"""Tried weights of half a line's squared norm against the mean log loss."""
EQUAL = 0.01
"""How much the parts' shares are drawn to equal ones; from a third to twice that is level."""
TOLERANCE = 1e-3
"""Ten times a probe's, for half of its time: no AUC differs by more than .001."""

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def fitted(
    tally_RY: Floats,
    own_RZ: Floats,
    widths: Sequence[int],
    class_R: Ints,
    split_R: npt.NDArray[np.str_],
    as_of_R: Ints,
) -> Readout:
    """A readout by the rows of "train" and "validation"; what it says of each class has unit variance in training.

    Args:
        widths: of the parts of `own` that are asked alone, one after another.
        as_of_R: seconds since 1970.
    """
    train, validation = (np.flatnonzero(split_R == split) for split in ("train", "validation"))
    labels = [(class_R == c).astype(np.float32) for c in _asked(class_R[train], class_R[validation])]
    if not labels:
        return Readout.none()
    parted = folds(class_R, split_R, as_of_R)
    known_RV = np.concatenate([tally_RY[:, FOR_LINES], own_RZ], 1)
    parts = np.split(np.arange(known_RV.shape[1]), np.cumsum([known_RV.shape[1] - own_RZ.shape[1], *widths[:-1]]))
    mean_V, scale_V = standard(known_RV[train])
    standard_RV = ((known_RV - mean_V) * scale_V).clip(-REACH, REACH)
    asked = [(part, standard_RV[:, part], Basis(standard_RV[np.ix_(train, part)])) for part in parts]
    line_CV = np.zeros((len(labels), known_RV.shape[1]), np.float32)
    grown = []
    for line_V, label_R in zip(line_CV, labels, strict=True):
        lines = [_line(X, label_R, train, parted, basis) for _, X, basis in asked]
        feature_TK, threshold_TK, leaf_TL, told = forests.grown(tally_RY[:, FOR_FORESTS], label_R, train, parted)
        *weights, weight = _believed([*(said for _, said in lines), told], label_R, parted)
        for (part, _, _), (coefficient_V, _), own in zip(asked, lines, weights, strict=True):
            line_V[part] = own * coefficient_V
        grown.append([torch.from_numpy(tensor) for tensor in (feature_TK, threshold_TK, weight * leaf_TL)])
    feature_CTK, threshold_CTK, leaf_CTL = (torch.stack(alike(each)) for each in zip(*grown, strict=True))

    row_RV = torch.from_numpy(np.concatenate([mean_V[None], scale_V[None], line_CV]))
    readout = Readout(row_RV, feature_CTK, threshold_CTK, leaf_CTL)
    by_forest_RC = by_forest(Readout.stack([readout], row_RV.device), torch.from_numpy(tally_RY[train]))[:, 0].numpy()
    said_RC = standard_RV[train] @ line_CV.T + by_forest_RC
    scale_C = 1 / torch.from_numpy(said_RC.std(0, dtype=np.float64)).clamp(min=1e-9).float()
    row_RV[LINES:] *= scale_C[:, None]
    return replace(readout, leaf_CTL=leaf_CTL * scale_C[:, None, None])


def _line(X: Floats, label_R: Floats, train: Ints, parted: Sequence[Fold], basis: Basis) -> tuple[Floats, list[Floats]]:
    """[V] a regression's coefficients at the best of `PENALTIES`, and what each fold's says of those it judges."""

    def path(rows: Ints) -> Floats:
        once = np.ones((len(rows), len(PENALTIES)), np.float32)
        return fit(X[rows], label_R[rows], once, PENALTIES, basis, TOLERANCE)

    told = [X[fold.validation] @ path(fold.train) for fold in parted]
    auc_FP = [[auc(label_R[fold.validation], score) for score in of.T] for fold, of in zip(parted, told, strict=True)]
    best = int(np.argmax(np.average(auc_FP, 0, [len(fold.validation) for fold in parted])))
    return path(train)[:, best], [of[:, best] for of in told]


def _believed(told: Sequence[Sequence[Floats]], label_R: Floats, parted: Sequence[Fold]) -> Floats:
    """[P] by how much to multiply what each part says, in log odds, so that the sum is true of those whom the folds
    judge.

    Each part is first brought to scale by itself (Platt, 1999); their shares are then those of a logistic regression,
    none below zero, that is drawn to equal ones.
    """
    judged = np.concatenate([fold.validation for fold in parted])
    score_RP = np.stack([np.concatenate([of - of.mean() for of in part]) for part in told], 1).astype(np.float64)
    deviation_P = np.maximum(score_RP.std(0), 1e-9)
    unit_RP = score_RP / deviation_P
    scale_P = np.concatenate([_weights(unit_R1, label_R[judged], 0.0, 1e-6) for unit_R1 in unit_RP.T[:, :, None]])
    share_P = _weights(unit_RP * scale_P, label_R[judged], 1 / len(told), EQUAL)
    believed: Floats = (scale_P * share_P / deviation_P).astype(np.float32)
    return believed


def _weights(X: Doubles, y: Floats, prior: float, penalty: float) -> Doubles:
    """[D] coefficients of a logistic regression, none below zero, that half their squared distance to `prior` costs
    `penalty` against the mean log loss."""
    sign = np.where(y > 0, 1.0, -1.0)

    def loss(point: Doubles) -> tuple[float, Doubles]:
        margin = sign * (point[0] + X @ point[1:])
        pull = -sign * expit(-margin) / len(y)
        off = point[1:] - prior
        value = np.logaddexp(0, -margin).mean() + penalty / 2 * (off @ off)
        return float(value), np.concatenate([[pull.sum()], X.T @ pull + penalty * off])

    start, bounds = np.full(1 + X.shape[1], prior), [(None, None), *[(0, None)] * X.shape[1]]
    start[0] = 0
    found: Doubles = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x[1:]
    return found


def _asked(training_R: Ints, validation_R: Ints) -> Ints:
    """The classes that are read: the second of two, of more each that penalties can be chosen for."""
    classes = np.unique(training_R)
    if len(classes) == 2:
        return classes[1:]
    return np.intersect1d(classes, validation_R) if len(classes) <= CLASSES else classes[:0]
