"""Intervals cover what they promise, CUPED takes variance and no effect, and daily peeks do not make false finds."""

from __future__ import annotations

from math import log, sqrt

import numpy as np
import pytest
from scipy.stats import ttest_ind

from qanchor.policies.experiment import confidence_sequence, cuped, daily_looks, effect

WAVES, WAVE = 14, 80


def users(seed: int, lift: float = 0.0):
    """outcome, treated, day, before: a habit decides both periods."""
    rng = np.random.default_rng(seed)
    n = WAVES * WAVE
    habit = rng.random(n)
    treated = rng.permutation(n) % 2 == 0
    before = rng.random(n) < habit
    outcome = rng.random(n) < habit * (1 - lift) + lift * treated
    return outcome.astype(float), treated, rng.permutation(n) % WAVES, before.astype(float)


def test_effect_equals_welch():
    y, treated, *_ = users(0, 0.2)
    found, theirs = effect(y, treated), ttest_ind(y[treated], y[~treated], equal_var=False)
    assert found.difference / found.error == pytest.approx(theirs.statistic)
    assert found.relative == pytest.approx(y[treated].mean() / y[~treated].mean() - 1)
    assert found.upper - found.lower == pytest.approx(2 * 1.959964 * found.error, rel=1e-5)


def test_intervals_cover_the_truth_with_and_without_cuped_and_cuped_is_shorter():
    lift, covered, widths, taken = 0.1, [], [], []
    for seed in range(400):
        y, treated, _, before = users(seed, lift)
        adjusted, share = cuped(y, before, treated)
        both = effect(y, treated), effect(adjusted, treated)
        covered.append([one.lower <= lift <= one.upper for one in both])
        widths.append([one.error for one in both])
        taken.append(share)
    assert np.mean(covered, 0) == pytest.approx([0.95, 0.95], abs=0.033)  # three standard errors
    plain, adjusted = np.mean(widths, 0)
    # variance taken is the squared correlation within arms, and the error shows it
    assert np.mean(taken) == pytest.approx(1 - (adjusted / plain) ** 2, abs=0.01)
    assert np.mean(taken) > 0.05


def test_cuped_of_a_covariate_without_news_changes_nothing_much():
    y, treated, *_ = users(1, 0.2)
    constant, share = cuped(y, np.ones(len(y)), treated)
    assert share == 0
    np.testing.assert_array_equal(constant, y)


def test_an_effect_does_not_leak_into_the_slope():
    """A covariate that says nothing within arms but differs between them would take the effect away if pooled."""
    rng = np.random.default_rng(0)
    treated = np.arange(2000) < 1000
    x = treated + rng.normal(size=2000)
    y = 3 * treated + rng.normal(size=2000)
    assert abs(effect(cuped(y, x, treated)[0], treated).difference - 3) < 0.2


def test_daily_peeks_of_a_test_of_nothing_find_nothing_more_often_than_alpha():
    false, naive = [], []
    for seed in range(400):
        y, treated, day, before = users(seed)
        false.append([daily_looks(y, treated, day, x).stop is not None for x in (None, before)])
        looks = [effect(y[day <= last], treated[day <= last]) for last in range(WAVES)]
        naive.append(any(look.lower > 0 or look.upper < 0 for look in looks))
    error = sqrt(0.05 * 0.95 / 400)
    assert max(np.mean(false, 0)) <= 0.05 + 2 * error
    assert np.mean(naive) > 0.12, "peeking at one-look intervals does no harm: the test above shows nothing"


def test_daily_peeks_hold_the_truth_all_the_time_and_find_an_effect():
    held, found = [], []
    for seed in range(150):
        y, treated, day, before = users(seed, 0.15)
        looks = daily_looks(y, treated, day, before)
        held.append((looks.lower_L <= 0.15).all() and (looks.upper_L >= 0.15).all())
        found.append(looks.stop is not None)
    assert np.mean(held) >= 0.93
    assert np.mean(found) > 0.9


def test_the_sequence_is_the_mixture_sprt_inverted():
    """By the slow road: the likelihood ratio as an integral over effects, refused where it exceeds 1 / alpha."""
    d, v, spread, alpha = 0.03, 0.02**2, 0.05, 0.05
    looks = confidence_sequence(np.array([d]), np.array([sqrt(v)]), alpha, spread)

    def log_ratio(theta):
        effects = np.linspace(-0.5, 0.5, 20_001) + theta
        mixed = np.exp(-((effects - theta) ** 2) / (2 * spread**2)) / (spread * sqrt(2 * np.pi))
        likelihood = np.exp(-((d - effects) ** 2) / (2 * v) + (d - theta) ** 2 / (2 * v))
        return log((mixed * likelihood).sum() * (effects[1] - effects[0]))

    for theta in (looks.lower_L[0], looks.upper_L[0]):
        assert log_ratio(theta) == pytest.approx(log(1 / alpha), abs=1e-6)
    assert looks.p_L[0] == pytest.approx(min(1, np.exp(-log_ratio(0.0))), abs=1e-9)


def test_nothing_is_known_where_the_error_is_zero():
    looks = confidence_sequence(np.array([0.0, 0.1]), np.array([0.0, 0.01]))
    assert np.isinf([looks.lower_L[0], looks.upper_L[0]]).all()
    assert looks.p_L[0] == 1
    assert looks.stop == 1
