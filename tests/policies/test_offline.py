"""On a simulated logged bandit, whose truth is known: unbiased within the interval, refused where nobody can know."""

from __future__ import annotations

import numpy as np
import pytest

from qanchor.errors import DataError, IdentificationError
from qanchor.policies import offline
from qanchor.policies.offline import off_policy

ACTIONS = 3


def softmax(score):
    weight = np.exp(score - score.max(1, keepdims=True))
    return weight / weight.sum(1, keepdims=True)


def bandit(seed: int, n: int = 3000):
    """A log, the new policy, the expected rewards [N, A], and the new policy's true value on these users."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, ACTIONS))
    expected = 1 / (1 + np.exp(-x))
    logging, target = softmax(-0.5 * x), softmax(1.5 * x)
    action = (rng.random(n)[:, None] > logging.cumsum(1)).sum(1).clip(max=ACTIONS - 1)
    reward = (rng.random(n) < expected[np.arange(n), action]).astype(float)
    truth = float((target * expected).sum(1).mean())
    return action, reward, logging[np.arange(n), action], target, expected, truth


@pytest.fixture
def few_draws(monkeypatch):
    """For tests of the estimates themselves; their spread has tests of its own."""
    monkeypatch.setattr(offline, "DRAWS", 2)


@pytest.mark.parametrize("model_is_right", [True, False])
def test_with_right_propensities_all_are_unbiased_and_dr_whatever_its_model(few_draws, model_is_right):
    misses = []
    for seed in range(60):
        action, reward, propensity, target, expected, truth = bandit(seed)
        model = expected if model_is_right else np.full_like(expected, 0.2)
        found = off_policy(action, reward, propensity, target, model)
        misses.append([e.value - truth for e in (found.ips, found.snips, found.dr)])
    error = np.std(misses, 0) / np.sqrt(len(misses))
    assert (np.abs(np.mean(misses, 0)) < 3.5 * error + 5e-4).all()


def test_with_wrong_propensities_dr_is_right_by_its_model(few_draws):
    """Uniform propensities claimed for a log that was not: the weights average 1 all the same, so that it passes."""
    dr, ips = [], []
    for seed in range(20):
        action, reward, _, _, expected, _ = bandit(seed)
        target = np.tile([0.5, 0.3, 0.2], (len(action), 1))
        truth = (target * expected).sum(1).mean()
        found = off_policy(action, reward, np.full(len(action), 1 / ACTIONS), target, expected)
        dr.append(found.dr.value - truth)
        ips.append(found.ips.value - truth)
    assert abs(np.mean(dr)) < 0.005
    assert abs(np.mean(ips)) > 0.03


def test_intervals_cover_and_the_direct_mean_would_not(monkeypatch):
    monkeypatch.setattr(offline, "DRAWS", 100)
    covered, direct = [], []
    for seed in range(80):
        action, reward, propensity, target, expected, truth = bandit(seed, 800)
        found = off_policy(action, reward, propensity, target, expected, seed=seed)
        covered.append([e.lower <= truth <= e.upper for e in (found.ips, found.snips, found.dr)])
        direct.append(abs(reward.mean() - truth) < 0.05)
        assert 0 < found.effective <= found.n == 800
    assert (np.mean(covered, 0) >= 0.87).all()
    assert np.mean(direct) < 0.1, "the log's own mean would do: the test shows nothing"


def test_a_good_model_steadies_and_self_normalising_does_too():
    action, reward, propensity, target, expected, _ = bandit(0)
    found = off_policy(action, reward + 5, propensity, target, expected + 5)
    assert found.dr.error < found.ips.error
    assert found.snips.error < found.ips.error
    assert off_policy(action, reward, propensity, target).dr is None


def test_the_logging_policy_itself_is_its_own_mean():
    action, reward, *_ = bandit(0)
    uniform = np.full((len(action), ACTIONS), 1 / ACTIONS)
    action = np.random.default_rng(0).integers(0, ACTIONS, len(action))
    found = off_policy(action, reward, np.full(len(action), 1 / ACTIONS), uniform)
    assert found.ips.value == pytest.approx(reward.mean())
    assert found.effective == pytest.approx(len(action))


def test_it_refuses_what_a_log_cannot_tell():
    action, reward, propensity, target, expected, _ = bandit(0)
    with pytest.raises(IdentificationError, match="none is known"):
        off_policy(action, reward, None, target)
    unknown = propensity.copy()
    unknown[:3] = np.nan
    with pytest.raises(IdentificationError, match="3 are unknown"):
        off_policy(action, reward, unknown, target)
    with pytest.raises(IdentificationError, match="above 0"):
        off_policy(action, reward, propensity - 1, target)
    with pytest.raises(IdentificationError, match="left to chance"):
        off_policy(action, reward, np.ones(len(action)), target)
    # a log that never took the last action, which the new policy likes
    never = np.random.default_rng(0).integers(0, ACTIONS - 1, len(action))
    with pytest.raises(IdentificationError, match="no overlap"):
        off_policy(never, reward, np.full(len(action), 0.5), target)
    with pytest.raises(IdentificationError, match=r"leave \d+, expected 50"):
        off_policy(action[:60], reward[:60], propensity[:60], target[:60])
    with pytest.raises(DataError, match="summing to 1"):
        off_policy(action, reward, propensity, target * 0.9)
    with pytest.raises(DataError, match=r"expected \[N\]"):
        off_policy(action, reward[1:], propensity, target, expected)
