"""A score that was made without labels, judged as it is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


class Given:
    """`fit` and `score` as in `Classifier`, of one feature that is the answer already: there is nothing to fit."""

    def __init__(self, seed: int = 0) -> None:
        pass

    def fit(self, X: Array, y: Array, X_validation: Array, y_validation: Array) -> Given:
        return self

    def score(self, X: Array) -> Array:
        return X[:, 0]
