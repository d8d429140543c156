"""Future: what a user does in the prediction window, as a summary (D_future of section 3.1) and about one concept.

Shapes: B users of a cohort, I items: distinct (user, text) pairs of their future events.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qanchor.events.profiles import DAY
from qanchor.useru.concepts import Concept
from qanchor.useru.evidence import NEVER, Bools, Evidence, Ints
from qanchor.useru.phrases import Fields, Voice, choose, say

ITEMS = 6
"""At most so many items in a summary."""
LENGTH = 40
"""Words of a summary, a count taken for two."""
BINS = 3
"""Temporal bins of the prediction window."""
DISCOUNT = 0.6
"""What an item is still worth for every chosen one of its category, and again for every chosen one of its bin."""


class Items(NamedTuple):
    """Distinct texts of each user: user, text row, events, temporal bin that most of them fall into (ties: earlier)."""

    owner: Ints
    text: Ints
    times: Ints
    bin: Ints

    def of(self, rows: npt.NDArray[np.integer]) -> Items:
        return Items(*(column[rows] for column in self))


def summary(events: Evidence, voice: Voice, period: str) -> tuple[Bools, Fields]:
    """The most representative future actions, verbalised as in Figure 10a: "text, 3 times; text, once".

    Returns who does anything at all [B], and the fields of the sentence.
    """
    chosen = representatives(items(events, voice), voice.action)
    count = chosen.times.astype(str).astype(object)
    told = voice.texts[chosen.text] + voice.phrases.pause
    told = told + choose(voice.phrases.times, np.minimum(chosen.times, 3) - 1, count=count)
    lists: list[list[str]] = [[] for _ in range(events.users)]
    words = [0] * events.users
    for user, item, length in zip(chosen.owner.tolist(), told, voice.length[chosen.text].tolist(), strict=True):
        words[user] += length + 2
        if words[user] <= LENGTH or not lists[user]:
            lists[user].append(item)
    joined = [voice.phrases.semicolon.join(told) for told in lists]
    return events.count() > 0, {"items": np.array([*joined, ""], object)[:-1], "period": period}


def items(events: Evidence, voice: Voice) -> Items:
    """The distinct texts of every user, by user, then by text row."""
    width = len(voice.same)
    cell = events.owner * width + voice.same[events.text]
    cell, place, count = np.unique(cell, return_inverse=True, return_counts=True)
    bins = (events.time - events.start[events.owner]) * BINS // (events.days * DAY)
    tally = np.bincount(place * BINS + bins, minlength=len(cell) * BINS).reshape(-1, BINS)
    return Items(cell // width, cell % width, count, tally.argmax(1))


def representatives(every: Items, action: Ints) -> Items:
    """Up to `ITEMS` items of each user, best first, for frequency *and* diversity. `action` [T]: category of each text.

    Objective: the sum over the chosen items, in the order of choice, of log(1 + n) * DISCOUNT^(c + b), where n is the
    item's number of events and c, b are the numbers of items chosen before it of the same action category and of the
    same temporal bin. It is maximised greedily; ties go to the smaller text row.

    The trade-off: DISCOUNT = 1 is the plain top-k by frequency, which for most users is one habit told six times;
    towards 0 every category and every bin gets one item before any gets a second, however rare it is. At 0.6, a second
    item of a category and bin that comes 44 times (log 45 * 0.36 = 1.4) gives way to one from elsewhere that comes 4
    times (log 5 = 1.6), but not to one that comes twice (log 3 = 1.1). Counts enter by their logarithm for the same
    reason: what a user does daily must not bury what the user does weekly.
    """
    value = np.log1p(every.times)
    by_action = every.owner * len(action) + action[every.text]
    by_bin = every.owner * BINS + every.bin
    used = np.zeros(len(value), np.int64)
    free = np.ones(len(value), bool)
    users, starts = np.unique(every.owner, return_index=True)
    chosen = []
    for _ in range(ITEMS if len(users) else 0):
        gain = np.where(free, value * DISCOUNT**used, -1.0)
        best = np.repeat(np.maximum.reduceat(gain, starts), np.diff([*starts, len(gain)]))
        _, first = np.unique(every.owner[hits := np.flatnonzero((gain == best) & free)], return_index=True)
        pick = hits[first]
        free[pick] = False
        used += np.isin(by_action, by_action[pick]).astype(np.int64) + np.isin(by_bin, by_bin[pick])
        chosen.append(pick)
    turns = np.concatenate(chosen) if chosen else np.empty(0, np.int64)
    return every.of(turns[np.argsort(every.owner[turns], kind="stable")])


def focus(concept: Concept, events: Evidence, every: Evidence, voice: Voice, period: str) -> tuple[Bools, Fields]:
    """How often, when and what exactly the user will do about one concept.

    `events` are those of `every` event that match it. Returns who does any [B], and the fields of the sentence [B].
    """
    often = events.often()
    onset = events.onset()
    onset = np.where(onset < 0, -1, onset + 3 * (events.count() > 1))
    return often > NEVER, {
        "concept": concept.name,
        "period": period,
        "often": say(voice.phrases.often, often),
        "otherwise": say(voice.phrases.otherwise, every.often()),
        "onset": say(voice.phrases.onset, onset),
        "named": voice.naming(events),
    }
