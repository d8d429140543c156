"""Folds that ask what a test asks: rows of users and of days that were not learned from.

Validation users of the same days as training's cannot say what carries over to later ones: by them a regression on
counts is given a hundredth of the penalty that would serve it best (docs/decisions/0011-forest.md). So the days of
training are parted into blocks, and the validation rows of each are judged by what was learned without it.

Shapes: R rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BLOCKS = 4
"""Of days at most: each costs one more fit of everything."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Fold:
    """Numbers of the rows that are learned from, and of those that are judged."""

    train: Ints
    validation: Ints


def folds(class_R: Ints, split_R: npt.NDArray[np.str_], as_of_R: Ints) -> list[Fold]:
    """One a block of days; no validation row is judged twice.

    A block is not left out whose own validation rows lack a class that others have, or that has all training rows of a
    class: its rows are judged by what was learned from all, where they can be.
    """
    train, validation = (np.flatnonzero(split_R == split) for split in ("train", "validation"))
    days = np.unique(as_of_R[train])
    first = [block[0] for block in np.array_split(days, min(BLOCKS, len(days)))]
    block_R = np.searchsorted(first[1:], as_of_R, side="right")
    learned, judged = (set(class_R[rows].tolist()) for rows in (train, validation))
    found, rest = [], [np.zeros(0, np.int64)]
    for b in range(len(first)) if len(first) > 1 else ():
        fold = Fold(train[block_R[train] != b], validation[block_R[validation] == b])
        if set(class_R[fold.train].tolist()) == learned and set(class_R[fold.validation].tolist()) == judged:
            found.append(fold)
        else:
            rest.append(fold.validation)
    if not found:
        return [Fold(train, validation)]
    others = np.concatenate(rest)
    return found + [Fold(train, others)] * (set(class_R[others].tolist()) == judged)
