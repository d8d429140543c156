"""What an experiment found: the effect and its interval, less noise by CUPED, a stop rule that may be looked at daily.

Shapes: N users, L looks.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
ALPHA = 0.05
SPREAD = 0.05
"""Standard deviation of the effects that the stop rule is tuned to; it is valid for any, and quickest for these."""
FIRST = 25
"""Users of each arm before the first look: means of fewer are not normal enough."""


@dataclass(frozen=True)
class Effect:
    """Mean outcome of the treated less that of the control, with a confidence interval for one look."""

    difference: float
    error: float
    """Standard error."""
    lower: float
    upper: float
    control: float
    """Mean outcome of the control."""

    @property
    def relative(self) -> float:
        return self.difference / self.control if self.control else np.nan


@dataclass(frozen=True)
class Looks:
    """The effect after each look, with intervals that hold for all looks at once."""

    difference_L: Floats
    lower_L: Floats
    upper_L: Floats
    p_L: Floats
    """Always-valid p-value: what it says at any moment of one's choice is a p-value."""

    @property
    def stop(self) -> int | None:
        """The first look whose interval leaves out zero."""
        out = np.flatnonzero((self.lower_L > 0) | (self.upper_L < 0))
        return int(out[0]) if len(out) else None


def effect(outcome: Vector, treated: Vector, alpha: float = ALPHA) -> Effect:
    """Difference of means of [N] outcomes, variances of both arms estimated apart (Welch), normal quantiles.

    `treated` [N] bool; both arms have two users at least.
    """
    one, other = outcome[treated].astype(np.float64), outcome[~treated].astype(np.float64)
    difference = float(one.mean() - other.mean())
    error = float(np.sqrt(one.var(ddof=1) / len(one) + other.var(ddof=1) / len(other)))
    reach = NormalDist().inv_cdf(1 - alpha / 2) * error
    return Effect(difference, error, difference - reach, difference + reach, float(other.mean()))


def cuped(outcome: Vector, before: Vector, treated: Vector) -> tuple[Floats, float]:
    """[N] outcomes less what a covariate from before the experiment foretells, and the share of variance this took.

    y - theta (x - mean x) with theta the slope within arms, so that it holds nothing of the effect (Deng et al., 2013).
    """
    y, x = outcome.astype(np.float64), before.astype(np.float64)
    y_within, x_within = y.copy(), x.copy()
    for arm in (treated, ~treated):
        y_within[arm] -= y[arm].mean()
        x_within[arm] -= x[arm].mean()
    varies = float(x_within @ x_within)
    theta = float(x_within @ y_within) / varies if varies else 0.0
    left, whole = y_within - theta * x_within, float(y_within @ y_within)
    return y - theta * (x - x.mean()), 1 - float(left @ left) / whole if whole else 0.0


def confidence_sequence(difference_L: Vector, error_L: Vector, alpha: float = ALPHA, spread: float = SPREAD) -> Looks:
    """Intervals that hold at all looks together with probability 1 - alpha: the mixture SPRT turned inside out.

    The likelihood ratio of effects ~ N(0, spread^2) against an effect theta, given an estimate d with squared error v,

        M(theta) = sqrt(v / (v + spread^2)) exp((d - theta)^2 spread^2 / (2 v (v + spread^2))),

    is a martingale in the users that come if theta is the truth (Robbins, 1970; Johari et al., 2017), and so exceeds
    1 / alpha ever with probability alpha at most. The interval is every theta that it does not refuse. Means are taken
    as normal: `daily_looks` waits for FIRST users an arm.

    Args:
        difference_L, error_L: the estimate over all users so far, and its standard error, look by look; an error of 0
            means that nothing is known yet.
    """
    d, v = difference_L.astype(np.float64), np.square(error_L.astype(np.float64))
    known, prior = v > 0, spread**2
    v = np.where(known, v, 1.0)
    ratio = (v + prior) / v
    reach = np.where(known, np.sqrt(2 * v * ratio * v / prior * np.log(np.sqrt(ratio) / alpha)), np.inf)
    log_m = np.where(known, d**2 * prior / (2 * v * (v + prior)) - 0.5 * np.log(ratio), -np.inf)
    p_L = np.minimum.accumulate(np.exp(-np.maximum(log_m, 0)))
    # every interval holds with all the others: so does what they have in common
    lower_L, upper_L = np.maximum.accumulate(d - reach), np.minimum.accumulate(d + reach)
    return Looks(d, lower_L, upper_L, p_L)


def daily_looks(outcome: Vector, treated: Vector, day: Vector, before: Vector | None = None) -> Looks:
    """A look after each day at all users who came so far.

    Args:
        outcome, treated: [N].
        day: [N] on which the user came into the experiment.
        before: [N] covariate for CUPED; its slope is estimated anew at each look.
    """
    found = []
    for last in np.unique(day):
        so_far = day <= last
        y, arm = outcome[so_far], treated[so_far]
        if min(arm.sum(), (~arm).sum()) < FIRST:
            found.append((0.0, 0.0))
            continue
        one = effect(y if before is None else cuped(y, before[so_far], arm)[0], arm)
        found.append((one.difference, one.error))
    difference_L, error_L = np.array(found).T
    return confidence_sequence(difference_L, error_L)
