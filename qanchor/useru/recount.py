"""Recount: what the events of some users say, worked out anew for the checker.

Nothing is shared with the side that answers (`evidence`, `facts`, `future`, `habits`) but words and the edges of bands.
Here counts are differences of running counts at the users' borders, and of two things that are tied either may be
claimed. Only sums of amounts go the same way, in the order of the events, since they depend on it (D3b).
Shapes: B users, E events of theirs, G groups of events of one user and one code.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import compress, pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qanchor.events.profiles import DAY
from qanchor.useru.evidence import RECENT_DAYS, VALUE_EDGES, Bools, Ints
from qanchor.useru.phrases import Frames, Voice, Words
from qanchor.useru.sentences import OneOf, Ranking

Floats = npt.NDArray[np.float64]
Claims = list[OneOf]
"""[B] what one field may say."""
Best = list[list[tuple[float, str]]]
"""[B] scores and names, best first."""
MONDAY = 4
"""The first Monday since 1970."""
CODES = 2**31
"""More than there are texts."""


class Groups(NamedTuple):
    """[G] by user, then by code."""

    user: Ints
    code: Ints
    size: Ints
    """Events."""
    newest: Ints
    """Time of the last event."""
    total: Floats
    """Sum of the weights, in the order of the events."""


@dataclass(frozen=True)
class Recount:
    """The events of B users in one window each."""

    voice: Voice
    end: Ints
    """[B] first second after the window."""
    days: int
    """Length of the window."""
    user: Ints
    """[E] 0 to B - 1, ascending."""
    time: Ints
    """[E] seconds, ascending within a user."""
    text: npt.NDArray[np.int32]
    """[E] row of the text table."""
    value: npt.NDArray[np.float64]
    """[E] NaN where there is none."""
    timed: Bools
    """[E] whether the log tells the time of day."""

    def where(self, mask: Bools) -> Recount:
        """Only the events of `mask` [E], in the same windows."""
        return Recount(
            self.voice,
            self.end,
            self.days,
            self.user[mask],
            self.time[mask],
            self.text[mask],
            self.value[mask],
            self.timed[mask],
        )

    @cached_property
    def borders(self) -> Ints:
        """[B + 1] each user's first event, and the number of all events."""
        return np.searchsorted(self.user, np.arange(len(self.end) + 1))

    @cached_property
    def count(self) -> Ints:
        """[B] events."""
        return np.diff(self.borders)

    def many(self, mask: Bools) -> Ints:
        """[B] events of `mask` [E]."""
        return np.diff(np.concatenate([[0], np.cumsum(mask)])[self.borders])

    @cached_property
    def starts_day(self) -> Bools:
        """[E] whether an event is its user's first of a day."""
        date = self.time // DAY
        return np.append(True, (np.diff(date) > 0) | (np.diff(self.user) > 0))[: len(date)]

    @cached_property
    def active(self) -> Ints:
        """[B] days with an event."""
        return self.many(self.starts_day)

    @cached_property
    def first(self) -> Ints:
        """[B] time of the first event; any where there is none."""
        return np.append(self.time, 0)[self.borders[:-1]]

    @cached_property
    def last(self) -> Ints:
        """[B] time of the last event; any where there is none."""
        return np.append(self.time, 0)[self.borders[1:] - 1]

    @cached_property
    def newer(self) -> Bools:
        """[E] whether an event is in the newer half of its window."""
        return 2 * self.time >= (2 * self.end - self.days * DAY)[self.user]

    def often(self) -> Ints:
        """[B] band of how often, by number of events or active days a week."""
        bursts = (self.count >= 8) & (self.count >= 4 * self.active)
        weekly = [10 * self.active < self.days, 14 * self.active < 3 * self.days, 7 * self.active < 5 * self.days]
        return np.select([self.count < 3, weekly[0] & bursts, *weekly], [self.count, 4, 3, 5, 6], 7)

    def ago(self) -> Claims:
        edges = np.array(RECENT_DAYS) * DAY
        return told(self.voice.phrases.ago, ((self.end - self.last)[:, None] > edges).sum(1))

    def onset(self) -> Claims:
        gap, third = self.first - (self.end - self.days * DAY), self.days * DAY // 3
        return told(self.voice.phrases.onset, 1 * (gap >= third) + (gap >= 2 * third) + 3 * (self.count > 1))

    def trend(self, lead: str = "") -> Claims:
        newer = self.many(self.newer)
        older = self.count - newer
        rules = [self.count < 4, older == 0, 2 * newer >= 3 * older, 2 * older >= 3 * newer]
        return told(self.voice.phrases.trend, np.select(rules, [0, 1, 2, 4], 3), lead)

    @cached_property
    def weekdays(self) -> Ints:
        """[B, 7] events from Monday on."""
        weekday = (self.time // DAY - MONDAY) % 7
        return np.stack([self.many(weekday == number) for number in range(7)], 1)

    def week(self) -> Ints:
        """[B] the weekend's share of the events: up to 10%, 20%, 40%, 60%, or above."""
        weekend = self.weekdays[:, 5:].sum(1, keepdims=True)
        band: Ints = (10 * weekend > self.count[:, None] * [1, 2, 4, 6]).sum(1)
        return band

    def day_parts(self) -> Ints:
        """[B, 4] events of logs that tell the time of day, by quarters of the day."""
        quarter = self.time % DAY // (DAY // 4)
        return np.stack([self.many(self.timed & (quarter == number)) for number in range(4)], 1)

    def dates(self) -> Ints:
        """[E] days of the month, from 0 on."""
        date = self.time.astype("datetime64[s]").astype("datetime64[D]")
        of_month: Ints = (date - date.astype("datetime64[M]")).astype(np.int64)
        return of_month

    def groups(self, code: Ints, weight: Floats | None = None) -> Groups:
        """The events of each user by a code [E], and sums of their values, or of another `weight` [E]."""
        cell = self.user * CODES + code
        order = np.argsort(cell, kind="stable")
        cell, weight = cell[order], np.nan_to_num(self.value if weight is None else weight)[order]
        start = np.append(True, np.diff(cell) > 0)[: len(cell)]
        first = np.flatnonzero(start)
        count = np.diff(np.append(first, len(cell)))
        total = np.bincount(np.cumsum(start) - 1, weight).astype(np.float64)
        return Groups(*np.divmod(cell[first], CODES), count, self.time[order][first + count - 1], total)

    def best(self, groups: Groups, score: npt.NDArray[Any], names: Words, k: int) -> Best:
        """[B] of each user's groups the k with the best scores [G], and all that are tied with the last of them."""
        order = np.lexsort((-score, groups.user))
        user, score, code = groups.user[order], score[order], groups.code[order]
        borders = np.searchsorted(user, np.arange(len(self.end) + 1))
        last = np.maximum(np.minimum(borders[:-1] + k, borders[1:]) - 1, 0)
        kept = score >= score[last[user]]
        items = list(zip(score[kept].tolist(), names[code[kept]], strict=True))
        borders = np.searchsorted(user[kept], np.arange(len(self.end) + 1))
        return [items[start:end] for start, end in pairwise(borders.tolist())]

    def top(self, groups: Groups, score: npt.NDArray[Any], names: Words) -> Claims:
        """The group with the best score, or any of the best."""
        return [OneOf(tuple(name for _, name in best)) for best in self.best(groups, score, names, 1)]

    def in_order(self, ranked: Best) -> list[Ranking]:
        """Up to three things, the best first."""
        frames = [self.voice.phrases.comma.join(f"{{{place}}}" for place in range(places)) for places in range(4)]
        return [Ranking(frames[min(3, len(best))], best) for best in ranked]

    def named(self) -> list[Ranking]:
        """The one or two most frequent texts, in the frame that their counts call for."""
        frames = [frame.format(first="{0}", second="{1}") for frame in self.voice.phrases.named]
        texts = self.groups(self.texts())
        claims: list[Ranking] = []
        ranked = self.best(texts, texts.size, self.voice.texts, 3)
        for best, count in zip(ranked, self.count.tolist(), strict=True):
            several = 2 if best and 2 * best[0][0] > count else 3 if len(best) == 2 else 4
            claims.append(Ranking(frames[several if len(best) > 1 else int(count > 1)], best))
        return claims

    def shares(self, code: Ints, names: Words) -> list[Ranking]:
        """The three most frequent codes [E] with their shares of all events."""
        frame, share, groups = self.voice.phrases.part_of_all, self.voice.phrases.share, self.groups(code)
        ranked = [
            [(n, frame.format(name=name, share=share[int((20 * n + all_) // (2 * all_))])) for n, name in best]
            for best, all_ in zip(self.best(groups, groups.size, names, 3), self.count.tolist(), strict=True)
        ]
        return self.in_order(ranked)

    def texts(self) -> Ints:
        """[E] the texts, the same number for those that are said alike."""
        return self.voice.same[self.text]

    def kinds(self) -> Ints:
        """[E] the categories."""
        return self.voice.kind[self.text]

    def spread(self, groups: Groups, column: npt.NDArray[Any], codes: int) -> npt.NDArray[Any]:
        """[B, codes] a column of the groups; 0 where there is none."""
        out = np.zeros((len(self.end), codes), column.dtype)
        out[groups.user, groups.code] = column
        return out

    def bands(self, value: Floats | Ints, lead: str = "") -> Claims:
        """The 1-2-5 band of each value [B]; silence where it is NaN."""
        reached = (value[:, None] >= VALUE_EDGES).sum(1)
        return told((*self.voice.bands, ""), np.where(np.isnan(value), len(self.voice.bands), reached), lead)

    def tenths(self, part: Ints) -> Claims:
        """[B] a part of the events in tenths, halves up."""
        return told(self.voice.phrases.share, (20 * part + self.count) // np.maximum(2 * self.count, 1))


def told(table: Frames, band: npt.NDArray[np.integer], lead: str = "") -> Claims:
    """The table's word of each band [B], after `lead`; silence where the word is empty."""
    claims = [OneOf((lead + word if word else "",)) for word in table]
    return [claims[number] for number in band.tolist()]


def tied(table: Frames, allowed: Bools, lead: str = "") -> Claims:
    """Any of the table's words that is `allowed` [B, words]; silence where none is."""
    words = [lead + word for word in table]
    return [OneOf(tuple(compress(words, row)) or ("",)) for row in allowed.tolist()]
