"""The joint descent against scikit-learn, one regression at a time."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from qanchor.probe.logistic import Basis, fit


@pytest.mark.parametrize(("n", "d", "rate"), [(2000, 20, 0.4), (2000, 20, 0.02), (150, 300, 0.3)])
def test_equals_scikit_learn(n: int, d: int, rate: float) -> None:
    random = np.random.default_rng(d)
    mix = random.normal(size=(d, d)) * np.logspace(0, -2, d)[:, None]
    X = random.normal(size=(n, d)) @ mix
    X = ((X - X.mean(axis=0)) / X.std(axis=0)).astype(np.float32)
    z = X[:, :5].sum(axis=1) + random.logistic(size=n)
    y = (z > np.quantile(z, 1 - rate)).astype(np.float32)
    penalties = np.array([1.0, 0.03, 0.001])
    times = np.stack([np.ones(n), random.integers(0, 3, n), random.integers(0, 3, n)], axis=1).astype(np.float32)
    found = fit(X, y, times, penalties, Basis(X))
    for k, penalty in enumerate(penalties):
        model = LogisticRegression(C=1 / (penalty * times[:, k].sum()), tol=1e-8, max_iter=5000)
        expected = model.fit(X, y, sample_weight=times[:, k]).coef_[0]
        ours, theirs = X @ found[:, k], X @ expected
        assert np.corrcoef(ours, theirs)[0, 1] > 0.9995
        assert np.std(ours - theirs) < 0.03 * np.std(theirs)


def test_another_basis_changes_the_way_and_not_the_end() -> None:
    random = np.random.default_rng(0)
    X = random.normal(size=(500, 10)).astype(np.float32)
    y = (X[:, 0] + random.logistic(size=500) > 0).astype(np.float32)
    once, penalty = np.ones((500, 1), np.float32), np.array([0.01])
    other = fit(X, y, once, penalty, Basis(X[:30] * 3))
    np.testing.assert_allclose(fit(X, y, once, penalty, Basis(X)), other, atol=5e-3)
