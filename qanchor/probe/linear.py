"""The linear probe: logistic regression on frozen features, judged on users and days that it has not seen.

A row is one user at one `as_of`. Rows of train users fit the probe, rows of validation users choose how strongly it is
regularised, rows of test users (at later `as_of`s) score it.

Shapes: N rows, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
import numpy.typing as npt

from qanchor.errors import DataError
from qanchor.probe.logistic import Basis, fit
from qanchor.probe.metrics import auc, ks

SPLITS = ("train", "validation", "test")
PENALTIES = np.logspace(-4, 0, 9)
"""Tried weights of half the squared norm against the mean log loss."""
REACH = 3.0
"""Standardised features are cut here. A feature that few training rows have would otherwise throw single test rows
anywhere; on travel the cut lifts the average AUC of counts from .837 to .843 (`docs/decisions/0002-probe.md`)."""

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Score:
    """How well one scenario is told from some features, on the test rows that have a label."""

    auc: float
    """Of the probe fitted on all training rows; NaN, like ks and the spreads, when there is a `reason`."""
    ks: float
    auc_spread: float
    """Standard deviation over probes fitted on bootstraps of the training users."""
    ks_spread: float
    positives: int
    n: int
    reason: str = ""
    """Why there is no score."""


@dataclass(frozen=True)
class Answers:
    """What one probe says of the test rows, row by row."""

    score: Array
    """[N] higher for likelier positives; NaN for rows that are not of the test, or have no label."""
    validation_auc: float
    """Of the penalty that was chosen; NaN, as all scores are, when there is a `reason`."""
    reason: str = ""


class Probe:
    """Features made ready once, then asked any number of yes/no questions."""

    def __init__(self, features: npt.ArrayLike, split: npt.ArrayLike, users: npt.ArrayLike | None = None) -> None:
        """Standardise [N, D] features by the training rows.

        Args:
            features: [N, D], finite.
            split: [N] of "train", "validation", "test".
            users: [N] ids; rows of one user are resampled together. Left out, each row is a user of its own.

        Raises:
            DataError: a length that differs, an unknown split, a feature that is not finite.
        """
        X = np.asarray(features, np.float32)
        self.split = np.asarray(split)
        owner = np.arange(len(X)) if users is None else np.unique(np.asarray(users).astype(str), return_inverse=True)[1]
        if X.ndim != 2 or not len(X) == len(self.split) == len(owner):
            raise DataError(f"features {X.shape}, {len(self.split)} splits, {len(owner)} users: expected [N, D], N, N")
        if unknown := set(np.unique(self.split).tolist()) - set(SPLITS):
            raise DataError(f"unknown splits {sorted(unknown)}: expected {', '.join(SPLITS)}")
        if not np.isfinite(X).all():
            rows = np.flatnonzero(~np.isfinite(X).all(axis=1))
            raise DataError(
                f"{len(rows)} of {len(X)} rows hold NaN or infinity (first: row {rows[0]}): expected finite features"
            )
        self.owner = owner
        self.features = _standardise(X, X[self.split == "train"])
        self.basis = Basis(self.features[self.split == "train"])

    def score(self, label: npt.ArrayLike, seeds: Sequence[int] = (0, 1, 2)) -> Score:
        """Fit, choose and judge. `label` [N] is 0, 1, or NaN for a row that is left out; one bootstrap a seed.

        A split without both classes cannot be judged: the score is NaN and says why.
        """
        y = np.asarray(label, np.float32)
        rows, reason = labelled(self.split, y)
        positives, n = int(y[rows["test"]].sum()), len(rows["test"])
        if reason:
            return Score(nan, nan, nan, nan, positives, n, reason)
        X = {name: self.features[of] for name, of in rows.items()}
        Y = {name: y[of] for name, of in rows.items()}
        path, best, _ = regularised(X, Y, self.basis)
        draws = _bootstraps(self.owner[rows["train"]], Y["train"], seeds)
        resampled = fit(X["train"], Y["train"], draws, np.repeat(PENALTIES[best], len(seeds)), self.basis)

        scores = (X["test"] @ np.column_stack([path[:, best], resampled])).T
        aucs, kss = ([metric(Y["test"], score) for score in scores] for metric in (auc, ks))
        return Score(aucs[0], kss[0], _spread(aucs[1:]), _spread(kss[1:]), positives, n)

    def answer(self, label: npt.ArrayLike) -> Answers:
        """Like `score` without bootstraps, but each test row's score instead of what they come to."""
        y = np.asarray(label, np.float32)
        rows, reason = labelled(self.split, y)
        told = np.full(len(y), nan, np.float32)
        if reason:
            return Answers(told, nan, reason)
        X = {name: self.features[of] for name, of in rows.items()}
        path, best, validation_auc = regularised(X, {name: y[of] for name, of in rows.items()}, self.basis)
        told[rows["test"]] = X["test"] @ path[:, best]
        return Answers(told, validation_auc)

    def validation_auc(self, label: npt.ArrayLike) -> float:
        """AUC on validation rows at the penalty that they like best; chance where a split lacks a class."""
        y = np.asarray(label, np.float32)
        rows = {name: np.flatnonzero((self.split == name) & ~np.isnan(y)) for name in SPLITS[:2]}
        if any(len(np.unique(y[of])) < 2 for of in rows.values()):
            return 0.5
        X, Y = ({name: of_all[rows] for name, rows in rows.items()} for of_all in (self.features, y))
        return regularised(X, Y, self.basis)[2]


def regularised(X: Mapping[str, Array], Y: Mapping[str, Array], basis: Basis) -> tuple[Array, int, float]:
    """[D, P] coefficients at every penalty, the one that validation rows like best, and their AUC of it.

    Args:
        X: standardised features of the "train" and "validation" rows; Y: their labels, 0 or 1.
        basis: of the training rows, or a sample of them.
    """
    once = np.ones((len(X["train"]), len(PENALTIES)), np.float32)
    path = fit(X["train"], Y["train"], once, PENALTIES, basis)
    aucs = [auc(Y["validation"], score) for score in (X["validation"] @ path).T]
    best = int(np.argmax(aucs))
    return path, best, aucs[best]


def probe(
    features: npt.ArrayLike,
    label: npt.ArrayLike,
    split: npt.ArrayLike,
    users: npt.ArrayLike | None = None,
    seeds: Sequence[int] = (0, 1, 2),
) -> Score:
    """One question to one set of features: `Probe(features, split, users).score(label, seeds)`."""
    return Probe(features, split, users).score(label, seeds)


def labelled(split: npt.NDArray[Any], y: Array) -> tuple[dict[str, npt.NDArray[np.int64]], str]:
    """The rows of each split that have a label [N] (0, 1, NaN), and why there is nothing to judge, if so."""
    rows = {name: np.flatnonzero((split == name) & ~np.isnan(y)) for name in SPLITS}
    short = [name for name in SPLITS if len(np.unique(y[rows[name]])) < 2]
    reason = one_class(short[0], int(y[rows[short[0]]].sum()), len(rows[short[0]])) if short else ""
    return rows, reason


def one_class(split: str, positives: int, n: int) -> str:
    """The reason of a score that does not exist."""
    return f"{positives} of {n} {split} rows with a label are positive: a score needs both classes"


def standard(training: Array) -> tuple[Array, Array]:
    """[D] means, and what brings each feature to unit variance: 0 for one that is always the same."""
    mean, deviation = training.mean(axis=0, dtype=np.float64), training.std(axis=0, dtype=np.float64)
    constant = deviation <= 1e-6 * np.abs(mean)
    scale = np.where(constant, 0, 1 / np.where(constant, 1, deviation))
    return mean.astype(np.float32), scale.astype(np.float32)


def _standardise(X: Array, training: Array) -> Array:
    """Zero mean and unit variance on the training rows, cut at REACH; a constant feature becomes 0."""
    if not len(training):
        return X
    mean, scale = standard(training)
    cut: Array = np.clip((X - mean) * scale, -REACH, REACH)
    return cut


def _bootstraps(owner: npt.NDArray[np.int64], y: Array, seeds: Sequence[int]) -> Array:
    """[N, seeds] how often each row is drawn when as many users as there are are drawn with replacement."""
    users, of_row = np.unique(owner, return_inverse=True)
    drawn = np.empty((len(y), len(seeds)), np.float32)
    for k, seed in enumerate(seeds):
        random = np.random.default_rng(seed)
        while True:  # until both classes are met
            drawn[:, k] = np.bincount(random.integers(len(users), size=len(users)), minlength=len(users))[of_row]
            if len(np.unique(y[drawn[:, k] > 0])) == 2:
                break
    return drawn


def _spread(values: list[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
