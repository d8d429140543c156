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
from qanchor.training.folds import Fold


def said(tensors, X) -> np.ndarray:
    feature, threshold, leaf = (torch.from_numpy(np.asarray(tensor))[None] for tensor in tensors)
    one = Readout(torch.zeros(LINES + 1, 0), feature, threshold, leaf)
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
    parted = [Fold(row[200:1_000], row[1_000:1_200]), Fold(row[:800], row[1_200:])]
    *tensors, told = forests.grown(X, y, row[:1_000], parted)
    for fold, booster, score in zip(parted, boosters, told, strict=False):
        best = booster.best_iteration
        np.testing.assert_allclose(score, booster.predict(X[fold.validation], raw_score=True, num_iteration=best))
    assert len(tensors[0]) > 3
    whole = np.mean([booster.predict(X, raw_score=True) for booster in boosters[-forests.BOOSTINGS :]], 0)
    np.testing.assert_allclose(said(tensors, X), whole, atol=1e-5)


def test_where_there_is_nothing_to_cut_a_tree_is_one_leaf():
    X, y, row = np.zeros((60, 3), np.float32), np.arange(60, dtype=np.float32) % 2, np.arange(60)
    *tensors, _ = forests.grown(X, y, row, [Fold(row, row)])
    assert np.isfinite(said(tensors, X)).all()


def test_without_lightgbm_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    X, row = np.zeros((4, 1), np.float32), np.arange(4)
    with pytest.raises(TrainingError, match=r"cannot be loaded .*pip install lightgbm; on macOS .*libomp"):
        forests.grown(X, np.array([0, 1, 0, 1], np.float32), row, [Fold(row, row)])


def test_thresholds_keep_singles_on_their_side():
    for threshold in (0.1, 1 / 3, 0.5, 1e-30, 2.0**24 + 1):
        below = forests._below(threshold)
        assert float(below) <= threshold < float(np.nextafter(below, np.float32(np.inf)))
