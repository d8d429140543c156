"""The people of the wallet world: demographics, tastes, and how the tastes drift from week to week.

U users of a chunk, W weeks, D latents (see wallet_world).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qanchor.datasets.wallet_world import CLASSES, Floats, Ints, World

CHUNK = 2_000
"""Users that share random streams; a stream never depends on how many users come after."""
PHI = 0.9
"""Weekly memory of the drift."""
DRIFT = 0.25
RISK_DRIFT = 0.4
"""Share of a latent's variance that drifts; the rest is the user's own level."""
DORMANT = 0.07
FOREST_THRESHOLD = 0.305
"""The forest splits people in two: 38% are above it and play, the rest hardly ever look in."""
CITIES = 16
CHANGES: dict[str, dict[str, float]] = {
    "move": {"home": 1.8, "utilities": 0.8, "commuting": -0.6, "discount": 0.5},
    "baby": {"baby": 2.4, "groceries": 0.8, "health": 0.5, "music": -0.8, "gaming": -0.6, "travel": -0.6},
    "job": {"commuting": 1.2, "coffee": 0.6, "takeout": 0.6, "education": 0.5, "gaming": -0.4},
}
CHANGE_RATE = 0.0012
"""Chance a week of each regime change (3% of users in half a year)."""

Streams = Callable[[str], np.random.Generator]


@dataclass(frozen=True)
class People:
    number: Ints
    """[U] position in the whole population."""
    key: Ints
    """[U] what the user's habits are hashed from."""
    level: Floats
    """[U, W, D] the part of each latent that stays, regime changes included."""
    drift: Floats
    """[U, W, D] the part that forgets: AR(1) with memory PHI."""
    drift_share: Floats
    """[D] stationary variance of `drift`."""
    calendar: Ints
    """[U] calendar class."""
    city: Ints
    """[U, W]."""
    shift: Ints
    """[U] hours that the day is late."""
    traits: Floats
    """[U, 5] standardised age, income, city size, family, thrift."""
    tenure: Ints
    """[U] months with the wallet at the start."""

    @property
    def latents(self) -> Floats:
        """[U, W, D]."""
        return self.level + self.drift

    def __len__(self) -> int:
        return len(self.number)


def streams(seed: int, chunk: int) -> Streams:
    """A chunk's random generators, one a purpose, so that no purpose's appetite moves another's draws."""

    def stream(purpose: str) -> np.random.Generator:
        return np.random.default_rng([seed, chunk, *purpose.encode()])

    return stream


def people(world: World, number: Ints, weeks: int, stream: Streams) -> People:
    """Draw the users of a chunk: `number` [U] are their positions in the population."""
    users, latents = len(number), len(world.latents)
    city = np.minimum(stream("city").geometric(0.16, users) - 1, CITIES - 1)
    traits = stream("traits").standard_normal((users, 5))
    traits[:, 2] = (4.0 - city) / 4.5
    pull = np.zeros((latents, 5))
    pull[-len(world.book["latents"]) :] = list(world.book["latents"].values())
    own = stream("level").standard_normal((users, latents))
    level = traits @ pull.T + own * np.sqrt(1 - (pull**2).sum(1))
    level[stream("dormant").random(users) < DORMANT, 0] -= 3.5
    forest = world.latent("forest")
    level[:, forest] = np.where(level[:, forest] > FOREST_THRESHOLD, 1.35, -0.8) + 0.25 * level[:, forest]

    share = np.full(latents, DRIFT)
    share[[world.latent("fraud"), world.latent("launder")]] = RISK_DRIFT
    share[forest] = 0.05
    levels = np.repeat((level * np.sqrt(1 - share))[:, None], weeks, axis=1)
    cities = np.repeat(city[:, None], weeks, axis=1)
    _change_lives(world, levels, cities, stream)
    return People(
        number=number,
        key=number + (stream("key").integers(1 << 40) << 20),
        level=levels,
        drift=_drift(stream("drift").standard_normal((users, weeks, latents)), np.sqrt(share)),
        drift_share=share,
        calendar=stream("calendar").integers(0, CLASSES, users),
        city=cities,
        shift=np.clip(np.rint(stream("shift").normal(0.3, 1.3, users)), -2, 4).astype(int),
        traits=traits,
        tenure=np.minimum(stream("tenure").gamma(2.0, 20.0, users), 160).astype(int),
    )


def _change_lives(world: World, levels: Floats, cities: Ints, stream: Streams) -> None:
    """A few users move, have a baby, or start a job: from that week on their levels are others."""
    users, weeks, _ = levels.shape
    for name, shifts in CHANGES.items():
        draws = stream(name).random((users, weeks + 1))
        after = np.logical_or.accumulate(draws[:, :weeks] < CHANGE_RATE, axis=1)
        for latent, shift in shifts.items():
            levels[:, :, world.latent(latent)] += shift * after
        if name == "move":
            cities[:] = np.where(after, (draws[:, weeks:] * CITIES).astype(int), cities)


def _drift(noise: Floats, spread: Floats) -> Floats:
    """[U, W, D] stationary AR(1) with standard deviation `spread`, in the noise's own memory."""
    for week in range(1, noise.shape[1]):
        noise[:, week] = PHI * noise[:, week - 1] + np.sqrt(1 - PHI**2) * noise[:, week]
    noise *= spread
    return noise
