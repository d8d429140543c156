"""The tally: how much there is of everything, step by step, as one wide vector that a line can be drawn through.

A linear reader of log counts cannot say "at least once" or "nobody buys 50 of these": trees can, and win by it. So
every count feature of a user, of its modalities and of its categories is told by the steps that it has climbed, beside
its size; each (group, feature, step) has a place by its hash and a sign (feature hashing, Weinberger et al., 2009), so
that nothing is fitted, logs of any kind have a tally, and a user's depends on that user alone. Measured in
docs/decisions/0010-readout.md.

Shapes: B users, G groups of all users one after another (a user's whole, its modalities, its categories), C count
features, S steps of a feature, W = `WIDTH` places.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

WIDTH = 512
"""Places; with twice as many, probes were no better."""
COUNTS = (0.5, 1.5, 2.5, 4.5, 7.5, 12.5, 20.5, 33.5, 54.5, 100.5, 200.5)
"""Events, active days or distinct texts."""
GAPS = (240.0, 120.0, 60.0, 30.0, 14.0, 7.0, 3.0, 1.0, 0.01)
"""Days before the user's newest event: the later, the more steps."""
SUMS = (1e-4, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5)
"""Summed values, in the logs' own unit."""
SIZE = 0.5
"""How much a feature's size counts beside a step."""

Ints = npt.NDArray[np.int64]


def tally(users: int, owner_G: Ints, code_G: Ints, feature_GC: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """[B, W] of groups with `batch.COUNT_FEATURES` features each.

    Args:
        code_G: what a group is, the same number in any batch.
    """
    climbed_GCS = feature_GC[:, :, None] >= _steps()
    group, feature, step = np.nonzero(climbed_GCS)
    sized = np.nonzero(feature_GC)
    group, feature = np.concatenate([group, sized[0]]), np.concatenate([feature, sized[1]])
    step = np.concatenate([step, np.full(len(sized[0]), climbed_GCS.shape[2])])
    amount = np.concatenate([np.ones(len(step) - len(sized[0])), SIZE * feature_GC[sized]])

    number = (code_G[group] * climbed_GCS.shape[1] + feature) * (climbed_GCS.shape[2] + 1) + step
    hashed = _hash(number)
    sign = np.where(hashed >> np.uint64(63), 1.0, -1.0)
    cell = owner_G[group] * WIDTH + (hashed % np.uint64(WIDTH)).astype(np.int64)
    return np.bincount(cell, sign * amount, users * WIDTH).reshape(users, WIDTH).astype(np.float32)


def _steps() -> npt.NDArray[np.float32]:
    """[C, S] as the count features measure them: six logs of counts, how lately, the signed log of summed values."""
    counts, lately, sums = np.log1p(COUNTS), 1 / (1 + np.array(GAPS)), np.log1p(SUMS)
    steps = np.full((8, max(map(len, (COUNTS, GAPS, SUMS)))), np.inf)
    for row, edges in enumerate([*[counts] * 6, lately, sums]):
        steps[row, : len(edges)] = edges
    return steps.astype(np.float32)


def _hash(number: Ints) -> npt.NDArray[np.uint64]:
    """Splitmix64: neighbours fall anywhere."""
    with np.errstate(over="ignore"):
        x = number.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
