"""Folds judge rows of users and of days that were not learned from, and none twice."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qanchor.training.folds import BLOCKS, Fold, folds


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(2, 3))
def test_no_fold_learns_from_what_it_judges(seed, days, classes):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(30, 200))
    class_R, as_of_R = rng.integers(0, classes, size), 86_400 * rng.integers(0, days, size)
    split_R = rng.choice(["train", "validation", "test"], size)
    found = folds(class_R, split_R, as_of_R)
    judged = np.concatenate([fold.validation for fold in found])
    assert len(set(judged.tolist())) == len(judged)
    assert set(split_R[judged].tolist()) <= {"validation"}
    assert 1 <= len(found) <= BLOCKS + 1
    known = {split: set(class_R[split_R == split].tolist()) for split in ("train", "validation")}
    for fold in found:
        assert set(split_R[fold.train].tolist()) <= {"train"}
        assert set(class_R[fold.train].tolist()) == known["train"]
        assert set(class_R[fold.validation].tolist()) == known["validation"]
        if len(fold.train) < (split_R == "train").sum():
            left = np.setdiff1d(np.flatnonzero(split_R == "train"), fold.train)
            assert not set(as_of_R[left].tolist()) & set(as_of_R[fold.train].tolist())
            nearest = [as_of_R[left][np.abs(as_of_R[left] - as_of_R[row]).argmin()] for row in fold.validation]
            assert not set(nearest) & set(as_of_R[fold.train].tolist())


def rows(fold: Fold) -> tuple[list[int], list[int]]:
    return fold.train.tolist(), fold.validation.tolist()


def test_days_are_left_out_where_all_classes_stay():
    class_R = np.array([0, 1, 0, 1, 0, 1, 0, 1, 0, 1])
    as_of_R = np.array([1, 1, 2, 2, 3, 3, 1, 1, 2, 3])
    split_R = np.repeat(["train", "validation"], [6, 4])
    first, rest = folds(class_R, split_R, as_of_R)
    assert rows(first) == ([2, 3, 4, 5], [6, 7])
    assert rows(rest) == ([0, 1, 2, 3, 4, 5], [8, 9])  # of days 2 and 3 there is one validation row each
    assert [rows(fold) for fold in folds(class_R, split_R, np.ones(10))] == [([0, 1, 2, 3, 4, 5], [6, 7, 8, 9])]
