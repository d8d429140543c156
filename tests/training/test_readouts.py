"""What a readout says: each part asked alone, what they say added up, at unit variance in training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from qanchor.model.batch import FOR_FORESTS, FOR_LINES, TALLY
from qanchor.model.readout import CLASSES, COMMON, LINES, SCALE, Readout, common, directions, written
from qanchor.probe.linear import probe
from qanchor.training import counted, readouts
from qanchor.training.counted import Counted
from qanchor.training.sample import Sample

WIDTHS = (4, 6)
STEPS = FOR_LINES.start
"""Where the tally's own lines begin; columns before are words and amounts, that a forest reads alone."""


def world(classes: int = 2, rows: int = 1_800):
    """A class that each part tells a little of, beside much noise; of the amounts, one in its middle."""
    rng = np.random.default_rng(0)
    class_R = rng.integers(0, classes, rows)
    tally_RY = np.zeros((rows, TALLY), np.float32)
    tally_RY[:, STEPS : STEPS + 30] = rng.normal(0, 1, (rows, 30))
    own_RZ = rng.normal(0, 1, (rows, sum(WIDTHS))).astype(np.float32)
    for column in (tally_RY[:, STEPS + 3], own_RZ[:, 1], own_RZ[:, 5]):
        column += 0.6 * class_R
    tally_RY[:, :6] = rng.random((rows, 6))
    middle = 0.25 + 0.5 * rng.random(rows)
    tally_RY[:, 4] = np.where((class_R > 0) & (rng.random(rows) < 0.6), middle, rng.random(rows))
    own_RZ = own_RZ * 5 + 2
    own_RZ[:, 2] = 4.0  # always the same
    return tally_RY, own_RZ, class_R, np.repeat(["train", "validation", "test"], rows // 3)


def days(class_R) -> np.ndarray:
    """[R] three days, in turn."""
    return np.arange(len(class_R)) % 3


def fitted(tally_RY, own_RZ, class_R, split_R, without=False) -> Readout:
    """A readout by rows of three days."""
    sample = Sample(np.arange(len(class_R)), class_R, split_R, days(class_R))
    by_count = Counted.silent(sample) if without else counted.fitted(tally_RY, sample)
    return readouts.fitted(tally_RY, own_RZ, WIDTHS, by_count, sample)


def said(readout: Readout, tally_RY, own_RZ) -> np.ndarray:
    """[R, C] what is written along the directions of an embedding that holds nothing else there."""
    classes = len(readout.line_RV) - LINES
    along = directions(classes, 128)
    rest = torch.zeros(1, 128)
    rest[0, :2] = torch.tensor([1.0, -1.0])
    rest = rest - (rest @ along.T) @ along
    one = Readout.stack([readout], torch.device("cpu"))
    unit = written(one, torch.from_numpy(tally_RY), torch.from_numpy(own_RZ)[:, None], rest.expand(len(own_RZ), 1, -1))
    return (COMMON * (unit[:, 0] @ along.T) / (unit[:, 0] @ common(128))[:, None]).double().numpy()


def test_a_readout_tells_more_than_any_part_and_has_unit_variance():
    tally_RY, own_RZ, class_R, split_R = world()
    some, test = split_R != "test", split_R == "test"
    readout = fitted(tally_RY[some], own_RZ[some], class_R[some], split_R[some])
    told = said(readout, tally_RY, own_RZ)[:, 0]
    assert told[split_R == "train"].std() == pytest.approx(1, abs=1e-3)
    assert readout.line_RV[SCALE, TALLY - STEPS + 2] == 0
    whole = roc_auc_score(class_R[test], told[test])
    parts = [tally_RY[:, FOR_LINES], own_RZ[:, :4], own_RZ[:, 4:], tally_RY[:, FOR_FORESTS]]
    for part in parts:
        assert whole > probe(part, class_R.astype(np.float32), split_R, seeds=()).auc + 0.03


def test_a_forest_tells_what_no_line_can():
    tally_RY, own_RZ, class_R, split_R = world()
    noise = np.random.default_rng(1).normal(0, 1, own_RZ.shape).astype(np.float32)
    tally_RY[:, STEPS:] = 0
    told = said(fitted(tally_RY, noise, class_R, split_R), tally_RY, noise)[:, 0]
    test = split_R == "test"
    assert roc_auc_score(class_R[test], told[test]) > 0.6
    assert probe(tally_RY[:, FOR_FORESTS], class_R.astype(np.float32), split_R, seeds=()).auc < 0.6


def test_a_part_that_tells_nothing_is_not_believed():
    tally_RY, own_RZ, class_R, split_R = world()
    readout = fitted(tally_RY, own_RZ, class_R, split_R)
    noise = np.random.default_rng(1).normal(0, 1, own_RZ.shape).astype(np.float32)
    other = fitted(tally_RY, noise, class_R, split_R)
    weight, without = (one.line_RV[LINES, -sum(WIDTHS) :].norm() for one in (readout, other))
    assert without < weight / 3


def test_rows_that_do_not_train_or_choose_change_nothing():
    tally_RY, own_RZ, class_R, split_R = world()
    some = split_R != "test"
    whole = fitted(tally_RY, own_RZ, class_R, split_R)
    part = fitted(tally_RY[some], own_RZ[some], class_R[some], split_R[some])
    assert all(torch.equal(whole.tensors[name], tensor) for name, tensor in part.tensors.items())


def test_of_many_classes_each_is_read_that_can_be_chosen_for():
    tally_RY, own_RZ, class_R, split_R = world(3)
    readout = fitted(tally_RY, own_RZ, class_R, split_R)
    told, test = said(readout, tally_RY, own_RZ), split_R == "test"
    assert [roc_auc_score(class_R[test] == c, told[test, c]) > 0.6 for c in (0, 2)] == [True, True]
    unseen = np.where(split_R == "validation", np.minimum(class_R, 1), class_R)
    assert len(fitted(tally_RY, own_RZ, unseen, split_R).line_RV) == LINES + 2
    many = np.arange(len(class_R)) % (CLASSES + 1)
    assert len(fitted(tally_RY, own_RZ, many, split_R).line_RV) == LINES


def test_lines_are_cut_where_a_probe_cuts():
    tally_RY, own_RZ, class_R, split_R = world()
    readout = fitted(tally_RY, own_RZ, class_R, split_R)
    far = own_RZ.copy()
    far[:, 1] = 1e6
    farther = far.copy()
    farther[:, 1] = 1e9
    np.testing.assert_allclose(said(readout, tally_RY, far), said(readout, tally_RY, farther))
