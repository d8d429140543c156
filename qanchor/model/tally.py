"""The tally: how much there is of everything, step by step, as one wide vector that a line can be drawn through.

A linear reader of log counts cannot say "at least once" or "nobody buys 50 of these": trees can, and win by it. So
every count feature of a user, of its modalities and of its categories is told by the steps that it has climbed, beside
its size; and so is how many events fall into each part of the day, day of the week, size of value, pause and age. Each
(group, feature, step) has a place by its hash and a sign (feature hashing, Weinberger et al., 2009), so that nothing is
fitted, logs of any kind have a tally, and a user's depends on that user alone. Measured in
docs/decisions/0010-readout.md.

A forest cuts sizes itself, and would cut at random what shares a place with twenty others. So it has the amounts: the
count features as they are, with a place for most modalities and categories alone (docs/decisions/0011-forest.md), and
beside the sums of values their mean and the newest one (0012-values.md). The words beside both: vocabulary.py.

Shapes: B users, E events of all of them, G groups of all users one after another (a user's whole, its modalities, its
categories), C count features, S steps of a feature, W places.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qanchor.events.profiles import DAY

COUNT_PLACES, HABIT_PLACES = 512, 256
"""With twice as many, probes were no better."""
COUNTS = (0.5, 1.5, 2.5, 4.5, 7.5, 12.5, 20.5, 33.5, 54.5, 100.5, 200.5)
"""Events, active days or distinct texts."""
GAPS = (240.0, 120.0, 60.0, 30.0, 14.0, 7.0, 3.0, 1.0, 0.01)
"""Days since the newest event of a group: the later, the more steps."""
MODALITY_PLACES, CATEGORY_PLACES = 32, 128
"""Of the amounts, ten numbers each. With half of them forests told retail and pcard worse, oulad and travel alike."""
SUMS = (1e-4, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5)
"""Summed values, in the logs' own unit."""
SIZE = 0.5
"""How much a feature's size counts beside a step."""
HABIT_COUNTS = (0.5, 1.5, 3.5, 7.5, 15.5, 40.5)
"""Events of a habit."""
SHARE = 2.0
"""How much its share of a user's events counts beside a step."""
PAUSES = (60, 600, 3_600, 21_600, DAY, 3 * DAY, 7 * DAY, 21 * DAY)
"""Seconds since the event before."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def tally(users: int, owner_G: Ints, code_G: Ints, feature_GC: npt.NDArray[np.float32]) -> Floats:
    """[B, W] of groups with the count features of `batch.py` each.

    Args:
        code_G: what a group is, the same number in any batch.
    """
    climbed_GCS = feature_GC[:, :, None] >= _steps()
    group, feature, step = np.nonzero(climbed_GCS)
    own, sized = np.nonzero(feature_GC)
    amount = np.concatenate([np.ones(len(step)), SIZE * feature_GC[own, sized]])
    group, feature = np.concatenate([group, own]), np.concatenate([feature, sized])
    step = np.concatenate([step, np.full(len(own), climbed_GCS.shape[2])])
    number = (code_G[group] * climbed_GCS.shape[1] + feature) * (climbed_GCS.shape[2] + 1) + step
    return _placed(users, COUNT_PLACES, owner_G[group], number, amount)


def amounts(users: int, places: int, owner_G: Ints, code_G: Ints, feature_GC: npt.NDArray[np.float32]) -> Floats:
    """[B, places * C] the features of groups, each group in a place by its hash; groups that share one are added up."""
    features = feature_GC.shape[1]
    place_G = (_hash(code_G) % np.uint64(places)).astype(np.int64)
    cell = ((owner_G * places + place_G)[:, None] * features + np.arange(features)).ravel()
    amount = np.bincount(cell, feature_GC.ravel(), users * places * features).astype(np.float64)
    return amount.reshape(users, places * features)


def habits(users: int, owner_E: Ints, code_E: Ints, time_E: Ints, gap_E: Floats, value_E: Floats) -> Floats:
    """[B, W] of events in the order of time, user by user.

    Args:
        code_E: what an event is of; each kind's habits are told apart, and those of all together.
        time_E: seconds since 1970; gap_E: days to the user's newest event; value_E: NaN where there is none.
    """
    size_E = np.sign(value_E) * np.ceil(2 * np.log10(1 + np.abs(value_E)))
    pause_E = np.diff(time_E, prepend=time_E[:1])
    first_E = np.diff(owner_E, prepend=-1) > 0
    kinds = [
        time_E % DAY * 8 // DAY,
        (time_E // DAY + 3) % 7,  # 1970-01-01 was a Thursday
        np.where(np.isnan(value_E), 99, size_E),
        np.where(first_E, -1, np.searchsorted(PAUSES, pause_E, side="right")),
        np.minimum(np.log2(1 + gap_E / 3.5), 8),
    ]
    bucket = np.concatenate([1_000 * k + 500 + np.floor(bucket_E).astype(np.int64) for k, bucket_E in enumerate(kinds)])
    owner, code = np.tile(owner_E, 2 * len(kinds)), np.concatenate([np.tile(code_E, len(kinds)), np.zeros_like(bucket)])
    what = code * 10_000 + np.tile(bucket, 2)
    many = int(what.max(initial=0)) + 1
    cells, count = np.unique(owner * many + what, return_counts=True)
    owner, what = np.divmod(cells, many)
    climbed, step = np.nonzero(count[:, None] > HABIT_COUNTS)
    share = SHARE * count / np.bincount(owner_E, minlength=users)[owner]
    number = np.concatenate([what[climbed], what]) * (len(HABIT_COUNTS) + 1)
    number += np.concatenate([step, np.full(len(what), len(HABIT_COUNTS))])
    amount = np.concatenate([np.ones(len(step)), share])
    return _placed(users, HABIT_PLACES, np.concatenate([owner[climbed], owner]), number, amount)


def _placed(users: int, places: int, owner: Ints, number: Ints, amount: Floats) -> Floats:
    """[B, W] each amount at its number's place, with its number's sign."""
    hashed = _hash(number)
    signed = np.where(hashed >> np.uint64(63), amount, -amount)
    cell = owner * places + (hashed % np.uint64(places)).astype(np.int64)
    placed: Floats = np.bincount(cell, signed, users * places).astype(np.float64)
    return placed.reshape(users, places)


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
