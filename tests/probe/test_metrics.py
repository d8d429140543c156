"""AUC and KS against their definitions, pair by pair and threshold by threshold."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qanchor.probe.metrics import auc, ks

# few distinct scores, so that ties are the rule
rows = st.lists(st.tuples(st.integers(0, 1), st.integers(-4, 4)), min_size=1, max_size=40)


def arrays(drawn: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    label, score = np.array(drawn, np.float32).T
    return label, score / 8


@given(rows)
def test_auc_is_the_share_of_pairs_in_order(drawn: list[tuple[int, int]]) -> None:
    label, score = arrays(drawn)
    pairs = [(p > q) + 0.5 * (p == q) for p in score[label == 1] for q in score[label == 0]]
    found = auc(label, score)
    assert math.isclose(found, np.mean(pairs), abs_tol=1e-12) if pairs else math.isnan(found)


@given(rows)
def test_ks_is_the_largest_gap_over_all_thresholds(drawn: list[tuple[int, int]]) -> None:
    label, score = arrays(drawn)
    positive, negative = score[label == 1], score[label == 0]
    found = ks(label, score)
    if not len(positive) or not len(negative):
        assert math.isnan(found)
        return
    gaps = [abs((positive <= t).mean() - (negative <= t).mean()) for t in score]
    assert math.isclose(found, max(gaps), abs_tol=1e-6)


@given(rows)
def test_turning_the_score_around_mirrors_auc_and_keeps_ks(drawn: list[tuple[int, int]]) -> None:
    label, score = arrays(drawn)
    assert np.isclose(auc(label, score) + auc(label, -score), 1.0, equal_nan=False) or math.isnan(auc(label, score))
    assert np.isclose(ks(label, score), ks(label, -score), equal_nan=True)


def test_nothing_to_rank_is_not_a_number() -> None:
    assert math.isnan(auc(np.empty(0), np.empty(0)))
    assert math.isnan(ks(np.ones(3), np.arange(3)))
