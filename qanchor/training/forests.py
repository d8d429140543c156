"""Forests of a readout: gradient boosting by LightGBM, taken apart into tensors that the model reads without it.

Trees are four cuts deep and see a fifth of the amounts each; users and days that they have not seen decide how many it
takes, and several boostings are averaged. What else was tried, and what they bring: docs/decisions/0011-forest.md.

Shapes: R rows of a sample, J of them judged by folds, C classes that are read, A amounts, F of them that are not all
alike, T trees, K = 2^depth - 1 cuts and L = 2^depth leaves of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from qanchor.model.readout import CUTS, DEPTH, LEAVES, alike
from qanchor.probe import boosting
from qanchor.training.sample import Sample

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


@dataclass(frozen=True)
class Forest:
    """One for each class that is read, as `model/readout.py` reads them."""

    feature_CTK: Ints
    threshold_CTK: Floats
    leaf_CTL: Floats
    told_CJ: Floats
    """What the folds' own forests say of those whom they have not seen, less each fold's mean."""

    @classmethod
    def bare(cls, told_CJ: Floats) -> Forest:
        """Without trees."""
        cut_CTK = np.zeros((len(told_CJ), 0, CUTS), np.float32)
        return cls(cut_CTK.astype(np.int64), cut_CTK, np.zeros((len(told_CJ), 0, LEAVES), np.float32), told_CJ)


def grown(amount_RA: Floats, sample: Sample) -> Forest:
    """By the training rows of a sample; its folds decide how many trees each class has.

    Raises:
        TrainingError: LightGBM cannot be loaded.
    """
    lightgbm = boosting.load()
    if not len(sample.label_CR):
        return Forest.bare(np.zeros((0, len(sample.judged)), np.float32))
    varied_F = np.flatnonzero(amount_RA[sample.train].std(0) > 0)  # most places are empty: nothing to look through
    varied_F = varied_F if len(varied_F) else np.zeros(1, np.int64)
    X = np.ascontiguousarray(amount_RA[:, varied_F])
    bins = lightgbm.Dataset(X[sample.train], params=SETTINGS).construct()
    binned = bins.create_valid(X, params=SETTINGS).construct()  # once, for all folds and classes
    each = [_of_class(lightgbm, binned, X, label_R, sample) for label_R in sample.label_CR]
    feature, threshold, leaf = (
        np.stack([F.numpy() for F in alike([torch.from_numpy(tensors[k]) for tensors, _ in each])]) for k in range(3)
    )
    return Forest(varied_F[feature], threshold, leaf, np.stack([told_J for _, told_J in each]))


def _of_class(
    lightgbm: Any, binned: Any, X: Floats, label_R: Floats, sample: Sample
) -> tuple[tuple[Ints, Floats, Floats], Floats]:
    """Features and thresholds [T, K] and leaves [T, L] of one class; and [J] what the folds' forests say."""

    def some(rows: Ints) -> Any:
        return binned.subset(rows).construct().set_label(label_R[rows])

    told, trees = [], []
    for fold in sample.folds:
        stop = lightgbm.early_stopping(PATIENCE, verbose=False)
        validation = {"valid_sets": [some(fold.validation)], "callbacks": [stop]}
        booster = lightgbm.train(SETTINGS | {"seed": 0}, some(fold.train), ROUNDS, **validation)
        score_J = booster.predict(X[fold.validation], raw_score=True, num_iteration=booster.best_iteration)
        told.append((score_J - score_J.mean()).astype(np.float32))
        trees += [booster.best_iteration] * len(score_J)
    whole, rounds = some(sample.train), max(1, round(np.mean(trees)))
    boosters = [lightgbm.train(SETTINGS | {"seed": seed}, whole, rounds) for seed in range(BOOSTINGS)]
    roots = [root for booster in boosters for root in booster.dump_model()["tree_info"]]
    feature_TK = np.zeros((len(roots), CUTS), np.int64)
    threshold_TK = np.full((len(roots), CUTS), NEVER, np.float32)
    leaf_TL = np.zeros((len(roots), LEAVES), np.float32)
    for t, root in enumerate(roots):
        _lay(root["tree_structure"], 0, feature_TK[t], threshold_TK[t], leaf_TL[t])
    leaf_TL /= BOOSTINGS
    return (feature_TK, threshold_TK, leaf_TL), np.concatenate(told)


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
