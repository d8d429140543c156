"""The rule counts, the probe scores validation rows as it scores test rows, and chances are calibrated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import random_profiles

from qanchor.events.profiles import DAY
from qanchor.policies.arms import _calibrated, _probed, business_rule


def test_the_rule_counts_the_month_of_who_was_seen_this_week():
    profiles = random_profiles(30, mean=25)
    found = business_rule(profiles)
    for n, count in enumerate(found):
        age = (profiles.as_of[n] - profiles.time[profiles.offsets[n] : profiles.offsets[n + 1]]) / DAY
        expected = (age <= 30).sum() if (age <= 30).sum() >= 5 and age.min(initial=np.inf) <= 7 else np.nan
        np.testing.assert_equal(count, expected)
    assert 0 < np.isfinite(found).sum() < 30
    long_ago = business_rule(replace(profiles, time=profiles.time - 8 * DAY))
    assert np.isnan(long_ago).all()


def test_a_row_has_the_same_score_as_validation_and_as_test():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(900, 6)).astype(np.float32)
    y = (rng.random(900) < 1 / (1 + np.exp(-2 * X[:, 0]))).astype(np.float32)
    split = np.repeat(["train", "validation", "test"], 300)
    X[600:] = X[300:600]
    score = _probed(X, split, y)
    assert np.isnan(score[:300]).all()
    np.testing.assert_allclose(score[300:600], score[600:], rtol=1e-5)


def test_chances_are_calibrated_on_validation_rows_and_keep_the_order():
    rng = np.random.default_rng(0)
    score = rng.normal(3, 5, 4000)
    chance = 1 / (1 + np.exp(-(score / 5 - 1.5)))
    y = (rng.random(4000) < chance).astype(float)
    split = np.repeat(["train", "validation", "test"], [1000, 1500, 1500])
    told = _calibrated(score, split, y, np.flatnonzero(split == "validation"))
    assert np.isnan(told[:1000]).all()
    assert np.abs(told[1000:] - chance[1000:]).max() < 0.06
    assert told[2500:].mean() == pytest.approx(y[2500:].mean(), abs=0.04)
    assert (np.diff(told[2500:][np.argsort(score[2500:])]) >= 0).all()
