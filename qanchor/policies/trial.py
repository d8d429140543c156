"""An A/B test on the simulated wallet: test users drawn into arms, called by each arm's policy, and what that changed.

Users come in daily waves. Each arm calls its users of a wave during two weeks, under one capacity and the same limits;
the outcome is the scenario's label in the prediction window. The logs have one test day, so that every wave lives
through the same calendar: "day w" is after w waves. Since the world can be replayed, each policy is also let loose on
all test users, which gives the effect that the A/B test estimates.

Shapes: N test users, W waves, T days of a campaign.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qanchor.pipeline import Project
from qanchor.policies.arms import LEARNED, RULE, business_rule, last_test_users, outcome_before, probabilities
from qanchor.policies.engagement import Limits, active_hours, call_hour, call_list, gain
from qanchor.policies.experiment import Effect, Looks, cuped, daily_looks, effect
from qanchor.policies.replay import NEVER, Replay, replay

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Seen = tuple[Effect, Effect, float, Looks]
"""What one randomisation shows of an arm against the first: plain, by CUPED, variance that took, daily looks."""
WAVES, DAYS = 14, 14
"""Two weeks, as the paper's (section 5.3)."""
DAILY = 0.02
"""Calls a day and user of an arm."""
WORTH = 0.01
"""Gains below this are not worth a call."""
RANDOMISATIONS = 100


@dataclass(frozen=True)
class Policy:
    """[N] what a call to each user is worth (NaN: no call), and its hour."""

    gain_N: Floats
    hour_N: Ints


@dataclass(frozen=True)
class Campaign:
    """What came of two weeks of calls."""

    calls_N: Ints
    answered_N: Ints
    """Day on which a call was answered, or NEVER."""


@dataclass(frozen=True)
class Contrast:
    """One arm against the first, the rule: as the A/B test sees it, and as the replay knows it."""

    naive: Effect
    cuped: Effect
    variance_taken: float
    """Share of the variance that CUPED took."""
    lower: float
    """The interval that holds at every daily look (by CUPED), after the last."""
    upper: float
    stop: int | None
    """Day of the first look that shows a difference; None for never."""
    replayed: Effect
    """Both policies on all test users with the same luck: paired."""
    covered: float
    """Share of fresh randomisations whose 95% interval (CUPED) holds the replayed effect,"""
    found: float
    """that show a difference at the end,"""
    stopped: float
    """and whose daily looks show it."""


@dataclass(frozen=True)
class ArmResult:
    users: int
    calls: int
    answered: int
    conversion: float
    """Of the arm's own users."""
    replayed: float
    """Had the policy all test users."""
    contrast: Contrast | None
    """None for the rule itself."""


def run(project: Project, scenario: str, limits: Limits, seed: int = 0) -> dict[str, Any]:
    """The whole A/B test; what `ab.json` holds.

    Raises:
        DataError: not the simulated wallet, or the run was not evaluated.
        ConfigError, ModelError: as `arms.probabilities`.
    """
    rows, keys = last_test_users(project)
    past = project.past.take(rows)
    told = probabilities(project, scenario)
    world = replay(
        project.config.root, keys, scenario, project.labels[scenario][rows], project.config.windows.predict_days
    )
    own_hour = call_hour(active_hours(past), limits)
    fixed = call_hour(active_hours(past).mean(0, keepdims=True), limits)
    policies = {RULE: Policy(business_rule(past), np.repeat(fixed, len(rows)))}
    policies |= {arm: Policy(gain(told[arm][rows]), own_hour) for arm in LEARNED}
    results = compare(world, policies, outcome_before(project, scenario, keys), limits, seed)
    return {
        "scenario": scenario,
        "users": len(rows),
        "uncalled": float(world.label_N.mean()),
        "fixed_hour": int(fixed[0]),
        "limits": asdict(limits),
        "arms": {arm: asdict(result) for arm, result in results.items()},
    }


def compare(
    world: Replay, policies: Mapping[str, Policy], before: Floats, limits: Limits, seed: int = 0
) -> dict[str, ArmResult]:
    """Every policy against the first. `before` [N] is CUPED's covariate."""
    arm_N, wave_N = assign(len(world), len(policies), seed)
    everybody = {
        name: world.outcome(campaign(world, policy, wave_N, limits).answered_N) for name, policy in policies.items()
    }
    control = next(iter(policies))
    truth = {name: _paired(everybody[name], everybody[control]) for name in policies if name != control}
    seen = _seen(world, policies, before, limits, seed)
    again = [_seen(world, policies, before, limits, seed + 1 + r) for r in range(RANDOMISATIONS)]
    results = {}
    for number, (name, policy) in enumerate(policies.items()):
        own = arm_N == number
        done = campaign(world, policy, np.where(own, wave_N, NEVER), limits)
        results[name] = ArmResult(
            users=int(own.sum()),
            calls=int(done.calls_N.sum()),
            answered=int((done.answered_N >= 0).sum()),
            conversion=float(world.outcome(done.answered_N)[own].mean()),
            replayed=float(everybody[name].mean()),
            contrast=_contrast(truth[name], seen[name], [one[name] for one in again]) if name in truth else None,
        )
    return results


def _contrast(truth: Effect, seen: Seen, again: list[Seen]) -> Contrast:
    naive, adjusted, taken, looks = seen
    return Contrast(
        naive=naive,
        cuped=adjusted,
        variance_taken=taken,
        lower=float(looks.lower_L[-1]),
        upper=float(looks.upper_L[-1]),
        stop=None if looks.stop is None else looks.stop + 1,
        replayed=truth,
        covered=float(np.mean([one.lower <= truth.difference <= one.upper for _, one, _, _ in again])),
        found=float(np.mean([one.lower > 0 or one.upper < 0 for _, one, _, _ in again])),
        stopped=float(np.mean([looks.stop is not None for *_, looks in again])),
    )


def assign(users: int, arms: int, seed: int) -> tuple[Ints, Ints]:
    """[N] arm and wave of each user, at random and as even as can be."""
    place = np.random.default_rng(seed).permutation(users)
    return place % arms, place // arms % WAVES


def campaign(world: Replay, policy: Policy, wave_N: Ints, limits: Limits) -> Campaign:
    """Two weeks of calls to the users of each wave (NEVER: not of the experiment), who is called by the policy.

    The capacity is a share of the wave, the same for any policy; who has answered is not called again.
    """
    calls_N, answered_N = np.zeros(len(world), np.int64), np.full(len(world), NEVER)
    for wave in range(WAVES):
        rows = np.flatnonzero(wave_N == wave)
        value, contacted = policy.gain_N[rows].copy(), np.zeros((len(rows), DAYS), bool)
        for day in range(DAYS):
            # whole calls: what a day has left over goes to the next
            capacity = int(DAILY * len(rows) * (day + 1)) - int(DAILY * len(rows) * day)
            called = call_list(value, contacted[:, :day], capacity, limits, WORTH)
            contacted[called, day] = True
            picked = called[world.answered(rows[called], day, policy.hour_N[rows[called]])]
            answered_N[rows[picked]] = day
            value[picked] = np.nan
        calls_N[rows] = contacted.sum(1)
    return Campaign(calls_N, answered_N)


def _seen(world: Replay, policies: Mapping[str, Policy], before: Floats, limits: Limits, seed: int) -> dict[str, Seen]:
    """What one randomisation shows of each policy against the first."""
    arm_N, wave_N = assign(len(world), len(policies), seed)
    outcome = np.zeros(len(world))
    for number, policy in enumerate(policies.values()):
        own = arm_N == number
        done = campaign(world, policy, np.where(own, wave_N, NEVER), limits)
        outcome[own] = world.outcome(done.answered_N)[own]
    found = {}
    for number, name in list(enumerate(policies))[1:]:
        both = (arm_N == 0) | (arm_N == number)
        y, x, treated, wave = outcome[both], before[both], arm_N[both] == number, wave_N[both]
        adjusted, taken = cuped(y, x, treated)
        found[name] = effect(y, treated), effect(adjusted, treated), taken, daily_looks(y, treated, wave, x)
    return found


def _paired(treated: npt.NDArray[np.bool_], control: npt.NDArray[np.bool_]) -> Effect:
    """The effect on users whose outcome under both policies is known."""
    gained = treated.astype(np.float64) - control
    difference, error = float(gained.mean()), float(gained.std(ddof=1) / np.sqrt(len(gained)))
    return Effect(difference, error, difference - 1.96 * error, difference + 1.96 * error, float(control.mean()))
