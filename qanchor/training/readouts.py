"""What a scenario's readout says: what tells its classes best, by logistic regressions and trees (`model/readout.py`).

The tally's steps and words, what the query reads and what the towers have learned are each asked alone by a line, under
a penalty of its own, and the tally's amounts and words by a forest (`counted.py`). What they say, in log odds, is added
up: side by side in one regression the widest of them drowns the others. Training users fit; penalties, the number of
trees, and how far each is to be believed are decided by users and days that it has not seen (`folds.py`;
docs/decisions/0010-readout.md, 0011-forest.md, 0012-values.md, 0014-words.md).

Shapes: R rows of a sample, J of them judged by folds, Y numbers of a tally, Z numbers of a suffix's own, V that lines
read, C classes read, P parts that are asked, X = 2 + C rows of a readout's lines, T training rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from scipy.special import expit

from qanchor.model.readout import LINES, Readout, said
from qanchor.training import lines
from qanchor.training.counted import Counted
from qanchor.training.sample import Sample

EQUAL = 0.05
"""How much the parts' shares are drawn to equal ones: the wallet would have a hundredth, oulad twice as much."""

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


def fitted(tally_RY: Floats, own_RZ: Floats, widths: Sequence[int], counted: Counted, sample: Sample) -> Readout:
    """A readout by the rows of a sample; what it says of each class has unit variance in training.

    Args:
        widths: of the parts of `own` that are asked alone, one after another.
        counted: of the same sample.
    """
    if not len(sample.label_CR):
        return Readout.none()
    own = [lines.fitted(X, sample) for X in np.split(own_RZ, np.cumsum(widths[:-1]), 1)]
    parts, forest = [counted.lines, counted.words, *own], counted.forest
    told_CPJ = np.stack([*(part.told_CJ for part in parts), forest.told_CJ], 1)
    label_CJ = sample.label_CR[:, sample.judged]
    weight_CP = np.stack([_believed(told_PJ, label_J) for told_PJ, label_J in zip(told_CPJ, label_CJ, strict=True)])
    line_CV = np.concatenate([weight_CP[:, [p]] * part.line_CV for p, part in enumerate(parts)], 1)
    mean_V, scale_V = (np.concatenate([getattr(part, name) for part in parts]) for name in ("mean_V", "scale_V"))
    row_XV = torch.from_numpy(np.concatenate([mean_V[None], scale_V[None], line_CV]))
    leaf_CTL = torch.from_numpy(weight_CP[:, -1, None, None] * forest.leaf_CTL)
    readout = Readout(row_XV, torch.from_numpy(forest.feature_CTK), torch.from_numpy(forest.threshold_CTK), leaf_CTL)

    tally_TY, own_TZ = (torch.from_numpy(known[sample.train]) for known in (tally_RY, own_RZ))
    said_TC = said(Readout.stack([readout], row_XV.device), tally_TY, own_TZ[:, None])[:, 0]
    scale_C = 1 / said_TC.double().std(0, correction=0).clamp(min=1e-9).float()
    row_XV[LINES:] *= scale_C[:, None]
    return replace(readout, leaf_CTL=leaf_CTL * scale_C[:, None, None])


def _believed(told_PJ: Floats, label_J: Floats) -> Floats:
    """[P] by how much to multiply what each part says, in log odds, so that the sum is true of those whom the folds
    judge.

    Each part is first brought to scale by itself (Platt, 1999); their shares are then those of a logistic regression,
    none below zero, that is drawn to equal ones.
    """
    score_JP = told_PJ.T.astype(np.float64)
    deviation_P = np.maximum(score_JP.std(0), 1e-9)
    unit_JP = score_JP / deviation_P
    scale_P = np.concatenate([_weights(unit_J1, label_J, 0.0, 1e-6) for unit_J1 in unit_JP.T[:, :, None]])
    share_P = _weights(unit_JP * scale_P, label_J, 1 / len(told_PJ), EQUAL)
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
