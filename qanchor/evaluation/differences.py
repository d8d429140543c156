"""Which differences between methods are real: a paired bootstrap over test users.

As many test users as there are are drawn with replacement, all methods are scored on the same draw, and that is done a
thousand times: what the luck of meeting these users and not others does to a difference. A difference is called real
when 95% of the draws lie on one side of zero, 2.5% cut off at each end. Chance in training is another matter: scores of
several seeds are averaged within a draw, and the spread over seeds stands beside it.

Shapes: N test rows, S scores (a method's seeds), R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
import numpy.typing as npt

RESAMPLES = 1000
CHUNK = 100
"""Resamples at once: memory."""

Array = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A method's average over the scenarios less the reference's."""

    mean: float
    low: float
    high: float
    """The middle 95% of the resamples."""

    @property
    def real(self) -> bool:
        return self.low > 0 or self.high < 0


def differences(
    scores: Mapping[str, Mapping[str, Sequence[Array]]],
    labels: Mapping[str, Array],
    users: npt.NDArray[np.str_],
    reference: str,
    paired: Mapping[str, Sequence[int]],
    seed: int = 0,
) -> dict[str, dict[str, Difference]]:
    """method -> {"auc", "ks"} against `reference`, of all methods but it.

    Args:
        scores: method -> scenario -> one [N] array a training seed; NaN where the row is not asked.
        labels: scenario -> [N] of 0, 1, NaN; scenarios that some method has no scores for take no part.
        users: [N] ids: rows of one user are drawn together.
        paired: method -> which of the reference's seeds, by their places, it is compared with; else with all. Who
            shares a seed with the reference shares its luck, which a mean over others would not take out.
    """
    _, owner = np.unique(users, return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = np.stack([np.bincount(rng.integers(owner.max() + 1, size=owner.max() + 1), minlength=owner.max() + 1)
                      for _ in range(RESAMPLES)])[:, owner]  # fmt: skip
    asked = [name for name in labels if all(_scored(of[name], labels[name]) for of in scores.values())]
    # the first draw is everyone
    times = np.concatenate([np.ones((1, len(owner)), drawn.dtype), drawn])
    metrics = {method: _averages(of, labels, asked, times) for method, of in scores.items()}
    told: dict[str, dict[str, Difference]] = {}
    for method in scores:
        if method == reference:
            continue
        same = metrics[reference][list(paired.get(method, range(len(metrics[reference]))))]
        apart_2R = metrics[method].mean(0) - same.mean(0)
        low, high = np.nanquantile(apart_2R[:, 1:], (0.025, 0.975), axis=1)
        told[method] = {
            m: Difference(float(apart_2R[k, 0]), float(low[k]), float(high[k])) for k, m in enumerate(("auc", "ks"))
        }
    return told


def _scored(seeds: Sequence[Array], label: Array) -> bool:
    rows = ~np.isnan(label)
    return all(bool(np.isfinite(score[rows]).all()) and rows.any() for score in seeds)


def _averages(
    of: Mapping[str, Sequence[Array]], labels: Mapping[str, Array], asked: Sequence[str], times: npt.NDArray[np.int64]
) -> Doubles:
    """[S, 2, R] AUC and KS, the mean over scenarios."""
    if not asked:
        return np.full((1, 2, len(times)), np.nan)
    rows = {name: ~np.isnan(labels[name]) for name in asked}
    each = [
        [resampled(labels[name][rows[name]], score[rows[name]], times[:, rows[name]]) for score in of[name]]
        for name in asked
    ]
    found: Doubles = np.mean(each, axis=0)
    return found


def resampled(label: Array, score: Array, times: npt.NDArray[np.int64]) -> Doubles:
    """[2, R] AUC and KS where row n counts `times` [R, N]-fold; NaN where a class is not drawn.

    A resample only changes the rows' weights: the order of the scores is sorted once.
    """
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    positive = label[order] > 0
    parts = []
    for at in range(0, len(times), CHUNK):
        weight = times[at : at + CHUNK, order].astype(np.float64)
        true, false = (np.cumsum(weight * side, axis=1)[:, ends] for side in (positive, ~positive))
        with np.errstate(invalid="ignore"):
            true, false = true / true[:, -1:], false / false[:, -1:]
        before_true, before_false = (np.pad(x, ((0, 0), (1, 0)))[:, :-1] for x in (true, false))
        area = ((true + before_true) * (false - before_false)).sum(axis=1) / 2
        parts.append(np.stack([area, np.abs(true - false).max(axis=1)]))
    return np.concatenate(parts, axis=1)


def spread(values: Sequence[float]) -> float:
    """Standard deviation over seeds; 0 for one."""
    known = [value for value in values if isfinite(value)]
    return float(np.std(known, ddof=1)) if len(known) > 1 else 0.0
