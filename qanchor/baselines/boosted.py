"""LightGBM on hand-made features: what a team without embeddings runs today ("Business SOTA", Table 11).

It judges the features itself and leaves no embedding. Trees and their number are chosen on validation users.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qanchor.probe import boosting

Array = npt.NDArray[np.float32]

LEAVES = (7, 31)
ROUNDS, PATIENCE = 400, 30
"""Trees at most, and how many may fail to improve the validation AUC."""


class Boosted:
    """`fit` and `score` as in `Classifier`; 0 stands for what is missing nowhere: features are finite."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, X: Array, y: Array, X_validation: Array, y_validation: Array) -> Boosted:
        """Raises TrainingError: LightGBM cannot be loaded."""
        lightgbm = boosting.load()
        binned = {"verbosity": -1, "max_bin": 63, "num_threads": 1}
        training = lightgbm.Dataset(X, y, params=binned, free_raw_data=False)
        validation = training.create_valid(X_validation, y_validation)
        best = -np.inf
        for leaves in LEAVES:
            grown = lightgbm.train(
                self._settings(leaves),
                training,
                ROUNDS,
                valid_sets=[validation],
                callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
            )
            auc = float(grown.best_score["valid_0"]["auc"])
            if auc > best:
                best, self.trees = auc, grown
        return self

    def score(self, X: Array) -> Array:
        return np.asarray(self.trees.predict(X, num_iteration=self.trees.best_iteration, num_threads=1), np.float32)

    def _settings(self, leaves: int) -> dict[str, Any]:
        return {
            "objective": "binary",
            "metric": "auc",
            "num_leaves": leaves,
            "learning_rate": 0.05,
            "min_data_in_leaf": 20,
            "feature_fraction": 0.5,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "lambda_l2": 1.0,
            "max_bin": 63,
            "seed": self.seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbosity": -1,
        }
