"""Evidence: the events that speak to one question, and the plain numbers that every answer is made of.

Nothing here knows words; nothing after this reads events. Shapes: B users (rows of one cohort), E events of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qanchor.events.profiles import DAY, Profiles

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

NEVER, ONCE, TWICE, FEW, BURSTS, WEEKLY, OFTEN, DAILY = range(8)
"""Bands of `Evidence.often`."""
UNKNOWN, NEW, MORE, STEADY, LESS = range(5)
"""Bands of `Evidence.trend`."""
RECENT_DAYS = (1, 3, 7, 14, 28)
"""Edges of `Evidence.recency`."""
VALUE_EDGES = np.concatenate([[0.0], np.outer(10.0 ** np.arange(7), [1, 2, 5]).ravel()])
"""Edges of the 1-2-5 bands of amounts: below 0, 0 to 1, 1 to 2, 2 to 5, 5 to 10, ... from 5,000,000 on."""


class Distinct(NamedTuple):
    """Distinct codes of each user: user, code, number of events, time of the newest."""

    owner: Ints
    code: Ints
    size: Ints
    newest: Ints


@dataclass(frozen=True)
class Evidence:
    """The events of B users in one window each; `where` narrows them to those that match."""

    start: Ints
    """[B] first second of the window."""
    days: int
    """Length of the window."""
    owner: Ints
    """[E] user, ascending; a user's events go by time."""
    time: Ints
    """[E] seconds."""
    text: npt.NDArray[np.int32]
    """[E] row of the text table."""
    modality: npt.NDArray[np.uint8]
    """[E]"""
    value: npt.NDArray[np.float64]
    """[E] NaN where the event has none."""
    timed: Bools
    """[E] whether the log tells the time of day (False for logs that only have dates)."""

    @classmethod
    def of(cls, profiles: Profiles, days: int, start: Ints, timed: Bools) -> Evidence:
        """All events of the profiles. `start` [B]; `timed` [M]: which modalities know the time of day."""
        return cls(
            start,
            days,
            profiles.owner,
            profiles.time,
            profiles.text,
            profiles.modality,
            profiles.value.astype(np.float64),
            timed[profiles.modality],
        )

    @property
    def users(self) -> int:
        return len(self.start)

    def where(self, mask: Bools) -> Evidence:
        """The events of `mask` [E]."""
        return replace(
            self,
            owner=self.owner[mask],
            time=self.time[mask],
            text=self.text[mask],
            modality=self.modality[mask],
            value=self.value[mask],
            timed=self.timed[mask],
        )

    def take(self, users: Ints) -> Evidence:
        """The events of some users, ascending, who are then users 0, 1, 2..."""
        place = np.full(self.users, -1)
        place[users] = np.arange(len(users))
        part = self.where(place[self.owner] >= 0)
        return replace(part, start=self.start[users], owner=place[part.owner])

    def last(self, days: int) -> Evidence:
        """The events of the window's last `days` days, and a window of that length."""
        if days == self.days:
            return self
        start = self.start + (self.days - days) * DAY
        return replace(self.where(self.time >= start[self.owner]), start=start, days=days)

    def count(self) -> Ints:
        """[B] events."""
        return np.bincount(self.owner, minlength=self.users)

    def tally(self, group: npt.NDArray[np.integer], groups: int) -> Ints:
        """[B, groups] events of each group; `group` [E] below `groups`."""
        cell = self.owner * groups + group
        return np.bincount(cell, minlength=self.users * groups).reshape(self.users, groups)

    def sums(self, group: npt.NDArray[np.integer], groups: int) -> npt.NDArray[np.float64]:
        """[B, groups] sum of the values, in event order; events without a value count as 0."""
        cell = self.owner * groups + group
        total = np.bincount(cell, np.nan_to_num(self.value), minlength=self.users * groups)
        return total.astype(np.float64).reshape(self.users, groups)

    def active(self) -> tuple[Ints, Ints]:
        """User and day (since 1970) of every active day, ascending."""
        first = np.ones(len(self.owner), bool)
        day = self.time // DAY
        first[1:] = (self.owner[1:] != self.owner[:-1]) | (day[1:] != day[:-1])
        return self.owner[first], day[first]

    def active_days(self) -> Ints:
        """[B] calendar days with at least one event."""
        return np.bincount(self.active()[0], minlength=self.users)

    def often(self) -> Ints:
        """[B] band of how often: none, one or two events; then by active days a week.

        Below 0.7 a week "a few times", or "in bursts" for 8 events or more with 4 or more on each active day; then
        "about weekly" below 1.5, "several times a week" below 5, and "almost daily".
        """
        count, days = self.count(), self.active_days()
        weekly = days * 7 / self.days
        band = FEW + 2 * (weekly >= 0.7) + (weekly >= 1.5) + (weekly >= 5)
        band = np.where((band == FEW) & (count >= 8) & (count >= 4 * days), BURSTS, band)
        return np.where(count <= 2, count, band)

    def newest(self) -> Ints:
        """[B] seconds between the newest event and the window's end; -1 without events."""
        ends = np.cumsum(self.count())
        gap = np.full(self.users, -1)
        some = self.count() > 0
        gap[some] = (self.start + self.days * DAY)[some] - self.time[ends[some] - 1]
        return gap

    def recency(self) -> Ints:
        """[B] band of how long the newest event is ago (0: at most a day, 5: more than 28 days; -1: no events)."""
        gap = self.newest()
        return np.where(gap < 0, -1, np.searchsorted(np.array(RECENT_DAYS) * DAY, gap))

    def onset(self) -> Ints:
        """[B] third of the window (0, 1, 2) that the first event falls into; -1 without events."""
        count = self.count()
        third = np.full(self.users, -1)
        some = count > 0
        first = self.time[(np.cumsum(count) - count)[some]]
        third[some] = (first - self.start[some]) * 3 // (self.days * DAY)
        return third

    def trend(self) -> Ints:
        """[B] the window's newer half against its older half; unknown below 4 events.

        "New" has none in the older half; "more" and "less" differ by half or more of the smaller count.
        """
        middle = self.start + self.days * DAY // 2
        older, newer = self.tally((self.time >= middle[self.owner]).astype(np.int64), 2).T
        band = np.select([older == 0, newer * 2 >= older * 3, older * 2 >= newer * 3], [NEW, MORE, LESS], STEADY)
        return np.where(older + newer < 4, UNKNOWN, band)

    def day_parts(self) -> Ints:
        """[B, 4] events from 0, 6, 12 and 18 o'clock on, of logs that tell the time of day."""
        timed = self.where(self.timed)
        return timed.tally(timed.time % DAY // (DAY // 4), 4)

    def weekdays(self) -> Ints:
        """[B, 7] events by weekday, Monday first."""
        return self.tally((self.time // DAY + 3) % 7, 7)

    def amount(self) -> Ints:
        """[B] 1-2-5 band of the mean value; -1 where no event has a value."""
        priced = self.where(~np.isnan(self.value))
        count = priced.count()
        mean = priced.sums(np.zeros(len(priced.owner), np.int64), 1)[:, 0] / np.maximum(count, 1)
        return np.where(count > 0, value_band(mean), -1)

    def distinct(self, code: npt.NDArray[np.integer]) -> Distinct:
        """The distinct codes of every user, by user, then by code; `code` [E] non-negative."""
        width = int(code.max()) + 1 if len(code) else 1
        cell, place, count = np.unique(self.owner * width + code, return_inverse=True, return_counts=True)
        newest = np.zeros(len(cell), np.int64)
        newest[place] = self.time  # a user's events go by time: the newest is written last
        return Distinct(cell // width, cell % width, count, newest)

    def top(self, code: npt.NDArray[np.integer], k: int) -> tuple[Ints, Ints]:
        """The k most frequent codes of each user, [B, k] codes (-1 where there are fewer) and [B, k] their counts (0).

        Ties go to the code that was seen last, then to the smaller code.
        """
        owner, kind, size, newest = self.distinct(code)
        order = np.lexsort((kind, -newest, -size, owner))
        return self.first(owner[order], k, kind[order]), np.maximum(self.first(owner[order], k, size[order]), 0)

    def latest(self, code: npt.NDArray[np.integer], k: int) -> Ints:
        """[B, k] the codes of each user that were seen last, newest first; -1 where there are fewer."""
        owner, kind, _, newest = self.distinct(code)
        order = np.lexsort((kind, -newest, owner))
        return self.first(owner[order], k, kind[order])

    def first(self, owner: Ints, k: int, column: Ints) -> Ints:
        """[B, k] each user's first k entries of a column whose rows go by owner; -1 where there are fewer."""
        size = np.bincount(owner, minlength=self.users)
        rank = np.arange(len(owner)) - (np.cumsum(size) - size)[owner]
        out = np.full((self.users, k), -1)
        out[owner[rank < k], rank[rank < k]] = column[rank < k]
        return out


def value_band(value: npt.NDArray[np.float64] | Ints) -> Ints:
    """Number of the 1-2-5 band of each value; band k > 0 starts at `VALUE_EDGES[k - 1]`, band 0 is below zero."""
    return np.searchsorted(VALUE_EDGES, value, side="right")


def tells_time(profiles: Profiles) -> Bools:
    """[M] whether a modality's log tells the time of day: at least 1 event in 20 is not at midnight sharp."""
    size = np.bincount(profiles.modality, minlength=len(profiles.modalities))
    off = np.bincount(profiles.modality[profiles.time % DAY != 0], minlength=len(profiles.modalities))
    return off * 20 >= np.maximum(size, 1)
