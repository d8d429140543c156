"""When to call whom: a ranked list under a daily capacity, contact caps and quiet hours.

Shapes: N users, W past days, C calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qanchor.events.profiles import DAY, Profiles

Vector = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
BORROWED = 10.0
"""Events of everybody's day that are added to a user's own: who has few is called when most are there."""


@dataclass(frozen=True)
class Limits:
    """What protects the users."""

    max_contacts: int = 2
    """Calls a user in any `within_days` days."""
    within_days: int = 14
    min_gap_days: int = 3
    """Days from one call to the next, at least."""
    quiet: tuple[int, int] = (21, 9)
    """No call from the first hour on until the second, local time."""

    @property
    def waking(self) -> Ints:
        """The hours of the day in which a call may begin."""
        start, stop = self.quiet
        hours = np.arange(24)
        asleep = (hours >= start) & (hours < stop) if start <= stop else (hours >= start) | (hours < stop)
        return hours[~asleep]


def gain(probability: Floats) -> Floats:
    """[N] what an answered call adds to the chance that a user comes, p(1 - p) for who comes anyway with p.

    It takes a call to double a user's rate: P(one event at least) goes from p = 1 - exp(-M) to 1 - exp(-2M). Who comes
    anyway gains nothing, and who never would gains as little. (Where an earlier test measured another response, rank by
    that.)
    """
    added: Floats = probability * (1 - probability)
    return added


def active_hours(profiles: Profiles, local_offset: npt.ArrayLike = 0) -> Floats:
    """[N, 24] share of a user's events in each local hour, a little of everybody's mixed in.

    Events at midnight to the second carry a date and no hour: they are left out.

    Args:
        local_offset: hours that local clocks are ahead of the logs', one for all or [N].
    """
    timed = profiles.time % DAY != 0
    owner = profiles.owner[timed]
    ahead = np.broadcast_to(np.asarray(local_offset), len(profiles))[owner]
    hour = ((profiles.time[timed] % DAY) / 3600 + ahead).astype(np.int64) % 24
    count = np.bincount(owner * 24 + hour, minlength=len(profiles) * 24).reshape(-1, 24).astype(np.float64)
    everybody = (count.sum(0) + 1) / (count.sum() + 24)
    mixed = count + BORROWED * everybody
    share: Floats = mixed / mixed.sum(1, keepdims=True)
    return share


def call_hour(active_N24: Floats, limits: Limits) -> Ints:
    """[N] the waking hour in which each user is most active."""
    waking = limits.waking
    chosen: Ints = waking[active_N24[:, waking].argmax(1)]
    return chosen


def may_be_called(contacted: Vector, limits: Limits) -> npt.NDArray[np.bool_]:
    """[N] who may be called today, by `contacted` [N, W] bool of the W days before it, the newest last."""
    width = contacted.shape[1]
    recent = contacted[:, max(0, width - limits.within_days + 1) :]
    near = contacted[:, max(0, width - limits.min_gap_days + 1) :]
    allowed: npt.NDArray[np.bool_] = (recent.sum(1) < limits.max_contacts) & ~near.any(1)
    return allowed


def call_list(gain: Vector, contacted: Vector, capacity: int, limits: Limits, worth: float = 0.0) -> Ints:
    """[C] rows of the users to call today, best first: `capacity` at most.

    Args:
        gain: [N] what a call to each is worth; NaN for who is not to be called.
        contacted: [N, W] as in `may_be_called`.
        worth: calls that gain no more than this are not made.
    """
    open_to = np.flatnonzero(may_be_called(contacted, limits) & (gain > worth))
    ranked: Ints = open_to[np.argsort(-gain[open_to], kind="stable")][:capacity]
    return ranked
