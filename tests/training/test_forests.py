"""Forests taken apart say, to rounding, what LightGBM says of the same users."""

from __future__ import annotations

import sys

import lightgbm
import numpy as np
import pytest
import torch

from qanchor.errors import TrainingError
from qanchor.model.batch import FOR_FORESTS, TALLY
from qanchor.model.readout import LINES, Readout, by_forest
from qanchor.training import forests
from qanchor.training.forests import Forest
from qanchor.training.sample import Sample


def said(forest: Forest, X) -> np.ndarray:
    tensors = map(torch.from_numpy, (forest.feature_CTK, forest.threshold_CTK, forest.leaf_CTL))
    one = Readout(torch.zeros(LINES + 1, 0), *tensors)
    tally = torch.zeros(len(X), TALLY)
    tally[:, : X.shape[1]] = torch.from_numpy(X)
    assert X.shape[1] <= FOR_FORESTS.stop
    return by_forest(Readout.stack([one], torch.device("cpu")), tally)[:, 0, 0].numpy()


def test_trees_as_tensors_say_what_lightgbm_says(monkeypatch):
    rng = np.random.default_rng(0)
    X = np.log1p(rng.poisson(2, (1_500, 12))).astype(np.float32)  # many users on one side of a cut by equal numbers
    y = (rng.random(1_500) < 1 / (1 + np.exp(2 - X[:, 0] * X[:, 3]))).astype(np.float32)
    row, boosters, train = np.arange(1_500), [], lightgbm.train
    monkeypatch.setattr(
        lightgbm, "train", lambda *given, **named: boosters.append(train(*given, **named)) or boosters[-1]
    )
    split = np.where(row % 3 < 2, "train", "validation")
    sample = Sample(row, y.astype(np.int64), split, row % 2)
    forest = forests.grown(X, sample)
    assert len(sample.folds) == 2
    start = 0
    for fold, booster in zip(sample.folds, boosters, strict=False):
        score = booster.predict(X[fold.validation], raw_score=True, num_iteration=booster.best_iteration)
        told = forest.told_CJ[0, start : start + len(score)]
        np.testing.assert_allclose(told, score - score.mean(), atol=1e-5)
        start += len(score)
    assert forest.feature_CTK.shape[1] > 3
    whole = np.mean([booster.predict(X, raw_score=True) for booster in boosters[-forests.BOOSTINGS :]], 0)
    np.testing.assert_allclose(said(forest, X), whole, atol=1e-5)


def few() -> Sample:
    row = np.arange(60)
    return Sample(row, row % 2, np.repeat(["train", "validation"], 30), np.zeros(60, np.int64))


def test_where_there_is_nothing_to_cut_a_tree_is_one_leaf():
    X = np.zeros((60, 3), np.float32)
    forest = forests.grown(X, few())
    assert np.isfinite(said(forest, X)).all()
    assert not forest.told_CJ.any()


def test_without_lightgbm_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(TrainingError, match=r"cannot be loaded .*pip install lightgbm; on macOS .*libomp"):
        forests.grown(np.zeros((60, 1), np.float32), few())


def test_thresholds_keep_singles_on_their_side():
    for threshold in (0.1, 1 / 3, 0.5, 1e-30, 2.0**24 + 1):
        below = forests._below(threshold)
        assert float(below) <= threshold < float(np.nextafter(below, np.float32(np.inf)))
