"""LightGBM and the perceptron answer what a plain reading of the data answers."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from qanchor.baselines.boosted import Boosted
from qanchor.baselines.perceptron import Perceptron


@pytest.fixture(scope="module")
def crossed():
    """A label that no line tells: the sign of a product; train, validation, test."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2400, 5)).astype(np.float32)
    y = (X[:, 0] * X[:, 1] + 0.3 * rng.normal(size=2400) > 0).astype(np.float32)
    return [(X[part], y[part]) for part in (slice(1200), slice(1200, 1700), slice(1700, 2400))]


@pytest.mark.parametrize("kind", [Boosted, Perceptron])
def test_both_tell_what_is_not_linear_and_repeat_themselves(kind, crossed):
    (X, y), (X_validation, y_validation), (X_test, y_test) = crossed
    scores = [kind(seed).fit(X, y, X_validation, y_validation).score(X_test) for seed in (0, 0)]
    assert roc_auc_score(y_test, scores[0]) > 0.87
    assert np.array_equal(*scores)


def test_lightgbm_is_as_good_as_the_boosting_of_scikit_learn(crossed):
    (X, y), (X_validation, y_validation), (X_test, y_test) = crossed
    ours = roc_auc_score(y_test, Boosted().fit(X, y, X_validation, y_validation).score(X_test))
    theirs = HistGradientBoostingClassifier(learning_rate=0.05, random_state=0).fit(X, y).predict_proba(X_test)[:, 1]
    assert ours == pytest.approx(roc_auc_score(y_test, theirs), abs=0.02)
