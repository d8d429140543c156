"""The labelled users of a scenario, and the sample of them by whom its readout is fitted.

Shapes: N users of whom scenarios take theirs, R of them in a sample, J judged by folds, C classes that are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from qanchor.model.readout import CLASSES
from qanchor.training.folds import Fold, folds

ROWS = 20_000
"""Training users of a scenario by whom its readout is fitted, at most."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """Users that fit a readout (training's), and users that decide how (validation's, their days left out)."""

    row_R: Ints
    """Their numbers among all."""
    class_R: Ints
    split_R: npt.NDArray[np.str_]
    """`train`, `validation`; others are not looked at."""
    as_of_R: Ints
    """Seconds since 1970."""

    @cached_property
    def train(self) -> Ints:
        return np.flatnonzero(self.split_R == "train")

    @cached_property
    def folds(self) -> list[Fold]:
        return folds(self.class_R, self.split_R, self.as_of_R)

    @cached_property
    def judged(self) -> Ints:
        """[J] rows of the sample that the folds judge, fold by fold."""
        return np.concatenate([fold.validation for fold in self.folds])

    @cached_property
    def label_CR(self) -> Floats:
        """Whether a row is of a class, of each that is read: the second of two, of more each that can be chosen for."""
        classes = np.unique(self.class_R[self.train])
        chosen = np.intersect1d(classes, self.class_R[self.split_R == "validation"])
        read = classes[1:] if len(classes) == 2 else chosen if len(classes) <= CLASSES else classes[:0]
        label_CR: Floats = (self.class_R == read[:, None]).astype(np.float32)
        return label_CR


@dataclass(frozen=True)
class Labelled:
    """A scenario's labelled users: their numbers among all, and their classes, 0..C-1."""

    train_row: Ints
    train_label: Ints
    validation_row: Ints
    validation_label: Ints

    @cached_property
    def members(self) -> list[Ints]:
        """Training rows of each class."""
        classes = int(self.train_label.max(initial=-1)) + 1
        return [self.train_row[self.train_label == c] for c in range(classes)]

    @property
    def lacking(self) -> str:
        """Why there is nothing to tune on; empty where each class is seen in training, and two in validation."""
        for split, label in (("training", self.train_label), ("validation", self.validation_label)):
            if len(np.unique(label)) < 2:
                return f"only one class among its {len(label)} {split} users, expected two or more"
        unseen = sorted(set(range(int(self.validation_label.max()) + 1)) - set(self.train_label.tolist()))
        unseen += [c for c, rows in enumerate(self.members) if not len(rows) and c not in unseen]
        return f"no training user of class {unseen[0]}, expected some of each from 0 to the highest" if unseen else ""

    def sample(self, as_of_N: Ints) -> Sample:
        """At most `ROWS` training users and all of validation; of the same users, scenarios take the same."""
        order_N = np.random.default_rng(0).permutation(len(as_of_N))
        some = np.sort(np.argsort(order_N[self.train_row], kind="stable")[:ROWS])
        row_R = np.concatenate([self.train_row[some], self.validation_row])
        class_R = np.concatenate([self.train_label[some], self.validation_label])
        split_R = np.repeat(["train", "validation"], [len(some), len(self.validation_row)])
        return Sample(row_R, class_R, split_R, as_of_N[row_R])
