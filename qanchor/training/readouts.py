"""What a scenario's readout says: the line that tells its classes best, by logistic regression (`model/readout.py`).

The tally, what the query reads and what the towers have learned are each asked alone, under a penalty of its own, and
what they say is added up: side by side in one regression the widest of them drowns the others, and what is learned by
heart is believed too much (docs/decisions/0010-readout.md). Training users fit, validation users choose the penalties.

Shapes: R rows, Y numbers that are read, C lines.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qanchor.probe.linear import REACH, regularised, standard
from qanchor.probe.logistic import Basis

CLASSES = 16
"""Scenarios of more classes have no readout: an embedding has better uses for its numbers."""

Floats = npt.NDArray[np.float32]


def fitted(
    known_RY: Floats, widths: Sequence[int], class_R: npt.NDArray[np.int64], split_R: npt.NDArray[np.str_]
) -> Tensor:
    """[2 + C, Y] a readout by the rows of "train" and "validation"; each line's values have unit variance in training.

    Args:
        widths: of the parts that are asked alone, one after another.
    """
    rows = {split: np.flatnonzero(split_R == split) for split in ("train", "validation")}
    asked = _asked(class_R[rows["train"]], class_R[rows["validation"]])
    mean_Y, scale_Y = standard(known_RY[rows["train"]])
    standard_RY = ((known_RY - mean_Y) * scale_Y).clip(-REACH, REACH)
    line_CY = np.zeros((len(asked), known_RY.shape[1]), np.float32)
    for part in np.split(np.arange(known_RY.shape[1]), np.cumsum(widths)[:-1]):
        X = {split: standard_RY[np.ix_(own, part)] for split, own in rows.items()}
        basis = Basis(X["train"])
        for line_Y, c in zip(line_CY, asked, strict=True):
            Y = {split: (class_R[own] == c).astype(np.float32) for split, own in rows.items()}
            path, best, _ = regularised(X, Y, basis)
            line_Y[part] = path[:, best]
    deviation_C = (standard_RY[rows["train"]] @ line_CY.T).std(0, dtype=np.float64)
    line_CY /= np.maximum(deviation_C, 1e-9)[:, None]
    return torch.from_numpy(np.concatenate([mean_Y[None], scale_Y[None], line_CY]).astype(np.float32))


def _asked(training_R: npt.NDArray[np.int64], validation_R: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The classes that have a line: the second of two, of more each that penalties can be chosen for."""
    classes = np.unique(training_R)
    if len(classes) == 2:
        return classes[1:]
    return np.intersect1d(classes, validation_R) if len(classes) <= CLASSES else classes[:0]
