"""The A/B test on a small made-up world: limits and capacity hold, and what it says is what is true."""

from __future__ import annotations

import numpy as np
import pytest

from qanchor.policies import trial
from qanchor.policies.engagement import Limits, gain
from qanchor.policies.replay import NEVER, Replay
from qanchor.policies.trial import DAILY, DAYS, WAVES, Policy, assign, campaign, compare

USERS = 2_000
LIMITS = Limits()


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    mean = np.exp(rng.normal(-0.5, 1.5, USERS))
    label = rng.random(USERS) < -np.expm1(-mean)
    awake = np.clip(rng.random((USERS, 24)), 0.05, 1)
    awake[:, 12] = 1
    return Replay(label, np.tile(mean[:, None] / 30, 30), awake, rng.random((USERS, 30)), rng.random(USERS))


@pytest.fixture(scope="module")
def policies(world):
    """One that knows the hidden rates, one that knows nothing, and one that calls who comes anyway."""
    rng, noon = np.random.default_rng(1), np.full(USERS, 12)
    p = -np.expm1(-world.rate_NT.sum(1))
    return {"blind": Policy(rng.random(USERS), noon), "knows": Policy(gain(p), noon), "sure": Policy(p, noon)}


def test_users_are_spread_evenly():
    arm, wave = assign(USERS, 4, 0)
    assert np.bincount(arm).tolist() == [500] * 4
    cells = np.bincount(arm * WAVES + wave)
    assert cells.max() - cells.min() <= 1


def test_a_campaign_keeps_capacity_and_stops_at_an_answer(world, policies):
    _, wave = assign(USERS, 1, 0)
    done = campaign(world, policies["blind"], wave, LIMITS)
    expected = sum(int(DAILY * (wave == w).sum() * DAYS) for w in range(WAVES))
    assert done.calls_N.sum() == expected
    assert done.calls_N.max() <= LIMITS.max_contacts
    assert (done.answered_N[done.calls_N == 0] == NEVER).all()
    answered = done.answered_N >= 0
    assert answered.sum() / done.calls_N.sum() == pytest.approx(0.8, abs=0.06)
    nobody = campaign(world, policies["blind"], np.full(USERS, NEVER), LIMITS)
    assert nobody.calls_N.sum() == 0


def test_the_policy_that_knows_wins_and_the_intervals_hold_the_truth(world, policies, monkeypatch):
    monkeypatch.setattr(trial, "RANDOMISATIONS", 40)
    before = world.label_N.astype(float)
    results = compare(world, policies, before, LIMITS)
    assert results["blind"].contrast is None
    knows, sure = results["knows"].contrast, results["sure"].contrast
    assert knows.replayed.lower > 0
    assert sure.replayed.difference < knows.replayed.difference
    assert knows.covered >= 0.85
    # the covariate is nearly the outcome
    assert knows.variance_taken > 0.5
    assert knows.cuped.error < 0.75 * knows.naive.error
    assert knows.lower <= knows.cuped.lower
    assert knows.upper >= knows.cuped.upper - 1e-9
    assert knows.stopped <= knows.found + 0.1


def test_the_same_policy_twice_shows_no_difference(world, policies, monkeypatch):
    monkeypatch.setattr(trial, "RANDOMISATIONS", 60)
    same = {"one": policies["knows"], "other": policies["knows"]}
    contrast = compare(world, same, np.zeros(USERS), LIMITS)["other"].contrast
    assert contrast.replayed.difference == 0
    assert contrast.found <= 0.15
    assert contrast.stopped <= 0.1
