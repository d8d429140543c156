"""Call lists keep every limit, whatever the days before; hours are the users' own, and never quiet ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import random_profiles
from hypothesis import given
from hypothesis import strategies as st

from qanchor.events.profiles import DAY
from qanchor.policies.engagement import Limits, active_hours, call_hour, call_list, gain, may_be_called


@given(
    seed=st.integers(0, 1000),
    most=st.integers(1, 4),
    within=st.integers(1, 12),
    gap=st.integers(1, 6),
    capacity=st.integers(0, 9),
)
def test_thirty_days_of_lists_keep_all_limits_and_are_never_shorter_than_they_could_be(
    seed, most, within, gap, capacity
):
    rng = np.random.default_rng(seed)
    limits = Limits(max_contacts=most, within_days=within, min_gap_days=gap)
    called = np.zeros((8, 30), bool)
    for day in range(30):
        value = rng.normal(size=8)
        value[rng.integers(8)] = np.nan
        rows = call_list(value, called[:, :day], capacity, limits)
        assert len(rows) <= capacity
        assert (np.diff(value[rows]) <= 0).all()
        left_out = np.setdiff1d(np.flatnonzero(may_be_called(called[:, :day], limits) & (value > 0)), rows)
        assert not len(left_out) or (len(rows) == capacity and value[left_out].max() <= value[rows].min(initial=9))
        called[rows, day] = True
    for user in called:
        days = np.flatnonzero(user)
        assert (np.diff(days) >= gap).all()
        assert all(user[start : start + within].sum() <= most for start in range(30))


def test_hours_are_the_users_own_in_local_time_and_never_quiet():
    profiles = random_profiles(6, mean=80)
    hour = np.array([8, 11, 14, 19, 23, 3])
    time = profiles.time // DAY * DAY + hour[profiles.owner] * 3600 + 60
    own = replace(profiles, time=time)
    limits = Limits(quiet=(21, 9))
    found = call_hour(active_hours(own), limits)
    assert found[1:4].tolist() == [11, 14, 19]
    assert np.isin(found, np.arange(9, 21)).all()
    ahead = call_hour(active_hours(own, [0, 2, -3, 0, 10, 8]), limits)
    assert ahead[1] == 13
    assert ahead[2] == 11
    assert ahead[4] == 9  # 23 + 10 = 9 of the next morning
    assert ahead[5] == 11
    np.testing.assert_allclose(active_hours(own).sum(1), 1)


def test_a_user_without_events_is_called_when_others_are_there_and_dates_have_no_hour():
    profiles = random_profiles(5, mean=80)
    at = replace(profiles, time=profiles.time // DAY * DAY + 15 * 3600)
    dates = replace(profiles, time=profiles.time // DAY * DAY)
    assert profiles.counts[0] == 0
    assert call_hour(active_hours(at), Limits())[0] == 15
    np.testing.assert_allclose(active_hours(dates), 1 / 24)


@pytest.mark.parametrize(("quiet", "waking"), [((21, 9), range(9, 21)), ((0, 8), range(8, 24)), ((12, 12), range(24))])
def test_quiet_hours_may_pass_midnight(quiet, waking):
    assert Limits(quiet=quiet).waking.tolist() == list(waking)


def test_the_gain_is_that_of_a_doubled_rate():
    mean = np.array([0.01, 0.3, 0.7, 3.0])
    np.testing.assert_allclose(gain(-np.expm1(-mean)), np.exp(-mean) - np.exp(-2 * mean))
