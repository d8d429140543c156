"""What could be known: the chance of each label given all latents at as_of.

A scenario's topics fire as Poisson processes, so P(at least one in the window) = E[1 - exp(-M)], M the rate integrated
over the window. Given the latents at as_of, the log rates of the coming weeks are Gaussian: the drift decays by PHI a
week, and regains noise whose covariance over (week, topic) is known. The expectation is taken by Gauss-Hermite
quadrature over that covariance's two main directions; the rest enters by its mean. (Changes of life after as_of are
ignored: they meet 1.5% of users in a month.)

U users, A weeks touched by the window, J topics of the scenario, Q nodes.
"""

from __future__ import annotations

import numpy as np

from qanchor.datasets.wallet_events import calendar_weeks, weekly_rates
from qanchor.datasets.wallet_people import PHI, People
from qanchor.datasets.wallet_world import Floats, World, calendar

NODES = (7, 3)
"""Quadrature nodes in the first and the second direction."""


def probabilities(world: World, people: People, as_of: int, predict_days: int) -> dict[str, Floats]:
    """[U] for each scenario: the chance of its label in days [as_of, as_of + predict_days)."""
    first, last = as_of // 7, (as_of + predict_days - 1) // 7
    window = calendar(as_of + predict_days)
    window[..., :as_of] = 0
    exposure = calendar_weeks(window).mean(-1)[people.calendar, first:]
    decay = PHI ** np.arange(last - first + 1)
    latents = people.level[:, first, None] + decay[:, None] * people.drift[:, first, None]
    result = {}
    for scenario in world.book["scenarios"]:
        topics = np.flatnonzero(world.target(scenario))
        exposed = exposure[:, :, world.rhythm[topics]]
        result[scenario] = np.zeros(len(people))
        for weight, shift in zip(*_shocks(world.loading[topics], people.drift_share, len(decay)), strict=True):
            mean = (weekly_rates(world, latents, topics, shift) * exposed).sum((1, 2))
            result[scenario] -= weight * np.expm1(-mean)
    return result


def _shocks(loading: Floats, share: Floats, weeks: int) -> tuple[Floats, Floats]:
    """Weights [Q] and shifts [Q, A, J] of the log rates that stand for what the drift gains after as_of."""
    ahead = np.arange(weeks)
    lag = np.abs(ahead[:, None] - ahead)
    gained = PHI**lag * (1 - PHI ** (2 * np.minimum(ahead[:, None], ahead)))
    covariance = np.kron(gained, (loading * share) @ loading.T)
    variance, direction = np.linalg.eigh(covariance)
    main = direction[:, -2:][:, ::-1] * np.sqrt(np.maximum(variance[-2:][::-1], 0))
    rest = np.diag(covariance) - (main**2).sum(1)
    (x, x_weight), (y, y_weight) = (np.polynomial.hermite_e.hermegauss(nodes) for nodes in NODES)
    nodes = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)
    weights = np.outer(x_weight, y_weight).ravel()
    shifts = nodes @ main.T + 0.5 * rest
    return weights / weights.sum(), shifts.reshape(len(nodes), weeks, len(loading))
