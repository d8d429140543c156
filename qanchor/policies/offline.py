"""What a policy would have earned, from the log of another one: off-policy estimates, or why there is none.

    log (user, action, propensity, reward) + the new policy's probabilities -> IPS, SNIPS, DR with their spread

Only a log whose actions were drawn, with known probabilities, says what other actions would have brought. Where it does
not, `off_policy` refuses with an `IdentificationError`.

Shapes: N logged decisions, A actions, R bootstraps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qanchor.errors import DataError, IdentificationError

Vector = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
DRAWS = 500
ENOUGH = 50
"""Effective decisions below which a mean is not worth its interval."""
FAR = 4.0
"""Standard errors by which the mean weight may miss 1 before the propensities are not believed."""


@dataclass(frozen=True)
class Estimate:
    """A policy's mean reward a decision, with its bootstrap spread."""

    value: float
    error: float
    lower: float
    """2.5% and 97.5% of the bootstraps."""
    upper: float


@dataclass(frozen=True)
class OffPolicy:
    ips: Estimate
    """Rewards weighted by target / logging probability: unbiased."""
    snips: Estimate
    """The same divided by the mean weight: a little biased, steadier."""
    dr: Estimate | None
    """A reward model, corrected by the weighted errors that it makes: right if the model or the propensities are."""
    effective: float
    """Decisions that the weights leave: (sum w)^2 / sum w^2 of N."""
    n: int


def off_policy(
    action: Vector,
    reward: Vector,
    propensity: Vector | None,
    target: Vector,
    model: Vector | None = None,
    seed: int = 0,
) -> OffPolicy:
    """Estimate the mean reward of a policy that did not make the log.

    Args:
        action: [N] what was done, 0 to A - 1.
        reward: [N] what came of it.
        propensity: [N] probability with which the logging policy did it; None where nobody knows.
        target: [N, A] the new policy's probabilities in the same situations.
        model: [N, A] expected reward of each action by a model fitted on other rows; without it there is no DR.

    Raises:
        DataError: shapes that do not fit, target rows that do not sum to 1.
        IdentificationError: the log cannot tell: no propensities, no randomness, no overlap, too few decisions left.
    """
    n, row = len(action), np.arange(len(action))
    if target.ndim != 2 or not len(target) == len(reward) == n or (model is not None and model.shape != target.shape):
        raise DataError(
            f"{n} actions, {len(reward)} rewards, target {target.shape}, model {None if model is None else model.shape}"
            ": expected [N], [N], [N, A], [N, A]"
        )
    if not np.allclose(target.sum(1), 1) or (target < 0).any():
        raise DataError("rows of `target` must be probabilities of all actions, summing to 1")
    weight = _weights(target[row, action], propensity)
    effective = float(weight.sum() ** 2 / np.square(weight).sum())
    if effective < ENOUGH:
        raise IdentificationError(
            f"not identifiable here: of {n:,} logged decisions the weights leave {effective:.0f}, expected {ENOUGH} at "
            "least: the new policy does what the log hardly ever did; log more, or ask about a nearer policy"
        )
    terms = {"ips": weight * reward, "weight": weight}
    if model is not None:
        terms["dr"] = (target * model).sum(1) + weight * (reward - model[row, action])
    stacked_NT = np.stack(list(terms.values()), 1).astype(np.float64)
    random = np.random.default_rng(seed)
    drawn_RT = np.stack([np.bincount(random.integers(n, size=n), minlength=n) @ stacked_NT / n for _ in range(DRAWS)])
    mean, drawn = (dict(zip(terms, part, strict=True)) for part in (stacked_NT.mean(0), drawn_RT.T))
    return OffPolicy(
        ips=_estimate(mean["ips"], drawn["ips"]),
        snips=_estimate(mean["ips"] / mean["weight"], drawn["ips"] / drawn["weight"]),
        dr=_estimate(mean["dr"], drawn["dr"]) if model is not None else None,
        effective=effective,
        n=n,
    )


def _weights(target_N: Vector, propensity: Vector | None) -> Floats:
    """[N] target over logging probability, once the log has shown that it can be weighted."""
    if propensity is None or not np.isfinite(propensity).all():
        unknown = "none is known" if propensity is None else f"{int((~np.isfinite(propensity)).sum())} are unknown"
        raise IdentificationError(
            f"not identifiable here: the logging policy's propensities are needed, {unknown}: log the probability of "
            "each action when it is drawn"
        )
    if (propensity <= 0).any() or (propensity > 1).any():
        raise IdentificationError(
            f"not identifiable here: propensities lie from {propensity.min():g} to {propensity.max():g}, expected "
            "above 0, at most 1: an action that was taken had some probability"
        )
    if (propensity == 1).all():
        raise IdentificationError(
            "not identifiable here: every propensity is 1, so nothing was left to chance and nobody like these users "
            "was treated otherwise: randomise a few per cent of the decisions"
        )
    weight: Floats = target_N / propensity
    miss, error = abs(float(weight.mean()) - 1), float(weight.std(ddof=1)) / np.sqrt(len(weight))
    if miss > FAR * error:
        raise IdentificationError(
            f"not identifiable here: weights average {weight.mean():.3f} (standard error {error:.3f}), expected 1: the "
            "new policy does what the log never did (no overlap), or the propensities are wrong"
        )
    return weight


def _estimate(value: float, drawn_R: Floats) -> Estimate:
    lower, upper = np.quantile(drawn_R, [0.025, 0.975])
    return Estimate(float(value), float(drawn_R.std(ddof=1)), float(lower), float(upper))
