"""What a readout says: each part asked alone, what they say added up, at unit variance in training."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from qanchor.model.readout import LINES, MEAN, SCALE
from qanchor.probe.linear import REACH, probe
from qanchor.training import readouts

WIDTHS = (30, 4, 6)


def world(classes: int = 2, rows: int = 900):
    """A class that each part tells a little of, beside much noise in the first."""
    rng = np.random.default_rng(0)
    class_R = rng.integers(0, classes, rows)
    known_RY = rng.normal(0, 1, (rows, sum(WIDTHS))).astype(np.float32)
    for column in (3, 31, 35):
        known_RY[:, column] += 0.7 * class_R
    known_RY = known_RY * 5 + 2
    known_RY[:, 7] = 4.0  # always the same
    return known_RY, class_R, np.repeat(["train", "validation", "test"], rows // 3)


def read(readout, known_RY):
    told = readout.numpy().astype(np.float64)
    standard_RY = ((known_RY - told[MEAN]) * told[SCALE]).clip(-REACH, REACH)
    return standard_RY @ told[LINES:].T


def test_a_line_tells_more_than_any_part_and_has_unit_variance():
    known_RY, class_R, split_R = world()
    some = split_R != "test"
    readout = readouts.fitted(known_RY[some], WIDTHS, class_R[some], split_R[some])
    assert readout.shape == (LINES + 1, sum(WIDTHS))
    line_R = read(readout, known_RY)[:, 0]
    assert line_R[split_R == "train"].std() == pytest.approx(1, abs=1e-3)
    assert readout[SCALE, 7] == 0
    test = split_R == "test"
    whole = roc_auc_score(class_R[test], line_R[test])
    for part in np.split(np.arange(sum(WIDTHS)), np.cumsum(WIDTHS)[:-1]):
        assert whole > probe(known_RY[:, part], class_R.astype(np.float32), split_R, seeds=()).auc + 0.03


def test_rows_that_do_not_train_or_choose_change_nothing():
    known_RY, class_R, split_R = world()
    some = split_R != "test"
    assert (
        readouts.fitted(known_RY, WIDTHS, class_R, split_R)
        == readouts.fitted(known_RY[some], WIDTHS, class_R[some], split_R[some])
    ).all()


def test_of_many_classes_each_has_a_line_that_can_be_chosen_for():
    known_RY, class_R, split_R = world(3)
    readout = readouts.fitted(known_RY, WIDTHS, class_R, split_R)
    told = read(readout, known_RY)[split_R == "test"]
    assert [roc_auc_score(class_R[split_R == "test"] == c, told[:, c]) > 0.6 for c in (0, 2)] == [True, True]
    unseen = np.where(split_R == "validation", np.minimum(class_R, 1), class_R)
    assert len(readouts.fitted(known_RY, WIDTHS, unseen, split_R)) == LINES + 2
    many = np.arange(len(class_R)) % (readouts.CLASSES + 1)
    assert len(readouts.fitted(known_RY, WIDTHS, many, split_R)) == LINES
