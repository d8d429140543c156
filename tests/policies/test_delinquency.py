"""Cut-offs cost least, lift tables add up, and the reason is where the model looked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qanchor.policies.delinquency import Costs, cut_off, lift_table, reasons


@given(seed=st.integers(0, 500), miss=st.floats(0, 20), alarm=st.floats(0, 20), levels=st.integers(1, 12))
def test_no_other_cut_off_costs_less(seed, miss, alarm, levels):
    rng = np.random.default_rng(seed)
    score = rng.integers(0, levels, 40) / 10
    label = (rng.random(40) < 0.2 + 0.5 * score).astype(float)
    costs = Costs(miss, alarm)
    limit = cut_off(label, score, costs)
    tried = [costs.per_user(label, score >= other) for other in [*np.unique(score), np.inf]]
    assert costs.per_user(label, score >= limit) == pytest.approx(min(tried))


def test_known_cut_offs():
    label, score = np.array([1, 0, 1, 0, 0, 0.0]), np.array([0.9, 0.8, 0.7, 0.3, 0.2, 0.1])
    assert cut_off(label, score, Costs(10, 1)) == 0.7
    assert cut_off(label, score, Costs(1, 10)) == 0.9
    assert cut_off(1 - label, score, Costs(0, 1)) == np.inf
    assert Costs(10, 1).per_user(label, score >= 0.7) == pytest.approx(1 / 6)


def test_lift_adds_up():
    rng = np.random.default_rng(0)
    score = rng.normal(size=1003)
    label = (rng.random(1003) < 1 / (1 + np.exp(2 - 2 * score))).astype(float)
    table = lift_table(label, score)
    assert sum(tenth.users for tenth in table) == 1003
    assert sum(tenth.positives for tenth in table) == label.sum()
    assert table[-1].captured == 1
    assert table[0].lift == pytest.approx(label[np.argsort(-score)][: table[0].users].mean() / label.mean())
    assert table[0].lift > 2 > 0.5 > table[-1].lift


def test_the_reason_is_the_modality_beyond_the_usual():
    share = np.array([[0.7, 0.2, 0.1], [0.5, 0.1, 0.4]])
    assert reasons(share, np.array([0.7, 0.1, 0.2]), ["bill", "mini", "spm"]) == ["mini", "spm"]
