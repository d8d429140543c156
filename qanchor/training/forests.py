"""Forests of a readout: gradient boosting by LightGBM, taken apart into tensors that the model reads without it.

Trees are four cuts deep and see a fifth of the amounts each; users and days that they have not seen decide how many it
takes, and several boostings are averaged. What else was tried, and what they bring: docs/decisions/0011-forest.md.

Shapes: R rows, A amounts, F of them that are not all alike, T trees, K = 2^depth - 1 cuts and L = 2^depth leaves of
each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qanchor.errors import TrainingError
from qanchor.model.readout import CUTS, DEPTH, LEAVES
from qanchor.training.folds import Fold

ROUNDS, PATIENCE = 400, 30
"""Trees of a boosting at most, and how many may fail to improve the validation AUC."""
BOOSTINGS = 4
"""Of different draws of rows and amounts: half of what one gets wrong is its draw."""
SETTINGS: dict[str, Any] = {
    "objective": "binary",
    "metric": "auc",
    "max_depth": DEPTH,
    "num_leaves": LEAVES,
    "learning_rate": 0.05,
    "min_data_in_leaf": 50,
    "feature_fraction": 0.2,
    "bagging_fraction": 0.6,
    "bagging_freq": 1,
    "lambda_l2": 10.0,
    "max_bin": 63,
    "use_missing": False,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
NEVER = np.finfo(np.float32).max
"""No amount is larger: a cut that has nothing to tell leads to the left."""


def grown(
    amount_RA: Floats, label_R: Floats, train: Ints, folds: Sequence[Fold]
) -> tuple[Ints, Floats, Floats, list[Floats]]:
    """Features [T, K], thresholds [T, K] and leaves [T, L], as `model/readout.py` reads them; and what the forest of
    each fold says of those whom it has not seen.

    Args:
        label_R: 0 or 1.
        train: numbers of the rows that the forest learns from; `folds` decide how many trees it has.

    Raises:
        TrainingError: LightGBM cannot be loaded.
    """
    try:  # here: a model is read and served without it
        import lightgbm
    except (ImportError, OSError) as error:
        raise TrainingError(
            f"LightGBM, which grows the forests of readouts, cannot be loaded ({error}): pip install lightgbm; "
            "on macOS it also wants `brew install libomp`"
        ) from None
    varied_F = np.flatnonzero(amount_RA[train].std(0) > 0)  # most places are empty: nothing to look through
    varied_F = varied_F if len(varied_F) else np.zeros(1, np.int64)
    X = amount_RA[:, varied_F]
    told, trees = [], []
    for fold in folds:
        training = lightgbm.Dataset(X[fold.train], label_R[fold.train], params=SETTINGS)
        validation = training.create_valid(X[fold.validation], label_R[fold.validation])
        stop = lightgbm.early_stopping(PATIENCE, verbose=False)
        booster = lightgbm.train(SETTINGS | {"seed": 0}, training, ROUNDS, valid_sets=[validation], callbacks=[stop])
        told.append(booster.predict(X[fold.validation], raw_score=True, num_iteration=booster.best_iteration))
        trees += [booster.best_iteration] * len(fold.validation)
    whole, rounds = lightgbm.Dataset(X[train], label_R[train], params=SETTINGS), max(1, round(np.mean(trees)))
    boosters = [lightgbm.train(SETTINGS | {"seed": seed}, whole, rounds) for seed in range(BOOSTINGS)]
    roots = [root for booster in boosters for root in booster.dump_model()["tree_info"]]
    feature_TK = np.zeros((len(roots), CUTS), np.int64)
    threshold_TK = np.full((len(roots), CUTS), NEVER, np.float32)
    leaf_TL = np.zeros((len(roots), LEAVES), np.float32)
    for t, root in enumerate(roots):
        _lay(root["tree_structure"], 0, feature_TK[t], threshold_TK[t], leaf_TL[t])
    leaf_TL /= BOOSTINGS
    return varied_F[feature_TK], threshold_TK, leaf_TL, told


def _lay(node: dict[str, Any], k: int, feature_K: Ints, threshold_K: Floats, leaf_L: Floats) -> None:
    """A node of LightGBM's and all below it, from place `k` of a complete tree on."""
    if "leaf_value" in node:
        while k < CUTS:  # cuts that were not needed all lead to the left
            k = 2 * k + 1
        leaf_L[k - CUTS] = node["leaf_value"]
        return
    feature_K[k], threshold_K[k] = node["split_feature"], _below(node["threshold"])
    _lay(node["left_child"], 2 * k + 1, feature_K, threshold_K, leaf_L)
    _lay(node["right_child"], 2 * k + 2, feature_K, threshold_K, leaf_L)


def _below(threshold: float) -> np.float32:
    """The largest single that is not above: singles lie on the same side of both."""
    single = np.float32(threshold)
    return single if float(single) <= threshold else np.nextafter(single, np.float32(-np.inf))
