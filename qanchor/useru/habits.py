"""Habits: general questions that can be asked of anyone, answered from the whole lookback window.

Each takes the events that it may speak of, and returns who has anything to tell [B] and the fields of its sentence.
Shapes: B users of a cohort, M modalities, K kinds (modality and category) of texts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qanchor.events.profiles import DAY
from qanchor.useru.evidence import UNKNOWN, Bools, Evidence, Ints, value_band
from qanchor.useru.facts import week_side
from qanchor.useru.phrases import Fields, Voice, Words, choose, say

Habit = Callable[[Evidence, Voice], tuple[Bools, Fields]]

ENOUGH = 5
"""Events below which no rhythm is told."""


def activity(events: Evidence, voice: Voice) -> tuple[Bools, Fields]:
    """How many events on how many days, and whether they become more."""
    count, days = events.count(), events.active_days()
    level = np.searchsorted([1.5, 4, 12], count / np.maximum(days, 1), side="right")
    return count > 0, {
        "level": say(voice.phrases.level, level),
        "events": say(voice.bands, value_band(count)),
        "trend": say(voice.phrases.trend, events.trend(), voice.phrases.pause),
    }


def day(events: Evidence, voice: Voice) -> tuple[Bools, Fields]:
    """Which quarters of the day have most events, and which is nearly empty (under 5%)."""
    parts = events.day_parts()
    total = parts.sum(1)
    order = np.argsort(-parts, axis=1, kind="stable")
    rare = (20 * parts.min(1) < total) & (total >= 20)
    part = voice.phrases.part
    return total > 0, {
        "first": say(part, order[:, 0]),
        "second": say(part, np.where(np.sort(parts, 1)[:, -2] > 0, order[:, 1], -1), voice.phrases.next),
        "share": say(voice.phrases.share, tenths(parts.max(1), total)),
        "rarely": say(part, np.where(rare, order[:, 3], -1), voice.phrases.pause + voice.phrases.rarely),
    }


def week(events: Evidence, voice: Voice) -> tuple[Bools, Fields]:
    """Weekdays against weekends, the busiest and the quietest day."""
    days = events.weekdays()
    return days.sum(1) >= ENOUGH, {
        "week": say(voice.phrases.week, week_side(events)),
        "busiest": say(voice.phrases.weekday, days.argmax(1)),
        "quietest": say(voice.phrases.weekday, 6 - days[:, ::-1].argmin(1)),
    }


def spending(events: Evidence, voice: Voice) -> tuple[Bools, Fields]:
    """Typical, largest and summed amounts, and the category that has most of the sum."""
    priced = events.where(~np.isnan(events.value))
    count = priced.count()
    total = priced.sums(np.zeros(len(priced.owner), np.int64), 1)[:, 0]
    largest = np.full(events.users, -np.inf)
    np.maximum.at(largest, priced.owner, priced.value)
    kind = voice.kind[priced.text]
    by_kind = np.where(priced.tally(kind, len(voice.kinds)) > 0, priced.sums(kind, len(voice.kinds)), -np.inf)
    return count > 0, {
        "typical": say(voice.bands, value_band(total / np.maximum(count, 1))),
        "largest": say(voice.bands, value_band(largest)),
        "total": say(voice.bands, value_band(total)),
        "kind": voice.kinds[by_kind.argmax(1)],
    }


def favourites(events: Evidence, voice: Voice) -> tuple[Bools, Fields]:
    """The three most frequent texts, how often there is any, and how recently."""
    top, _ = events.top(voice.same[events.text], 3)
    return events.count() > 0, {
        "texts": listing(voice, voice.texts, top),
        "ago": say(voice.phrases.ago, events.recency()),
    }


def interests(events: Evidence, voice: Voice) -> tuple[Bools, Fields]:
    """The three most frequent categories with their shares of all events."""
    return _parts(events, voice, voice.kinds, voice.kind[events.text], "kinds")


def mix(events: Evidence, voice: Voice) -> tuple[Bools, Fields]:
    """The modalities with their shares of all events, most frequent first."""
    return _parts(events, voice, voice.modalities, voice.modality[events.text], "modalities")


def regularity(events: Evidence, voice: Voice) -> tuple[Bools, Fields]:
    """The mean step from one active day to the next, and the longest stretch without an event between two."""
    owner, active = events.active()
    steps = np.where(owner[1:] == owner[:-1], np.diff(active), 0)
    longest = np.zeros(events.users, np.int64)
    np.maximum.at(longest, owner[1:], steps - 1)
    days = events.active_days()
    mean = np.bincount(owner[1:], steps, minlength=events.users) / np.maximum(days - 1, 1)
    return days >= 3, {
        "rhythm": say(voice.phrases.rhythm, np.searchsorted([1.3, 2.5, 5, 10], mean, side="right")),
        "gap": say(voice.phrases.gap, np.searchsorted([2, 4, 7, 14, 30], longest)),
        "active": say(voice.bands, value_band(days)),
    }


def newest(events: Evidence, voice: Voice) -> tuple[Bools, Fields]:
    """The last three different texts, and how long ago the newest was."""
    return events.count() > 0, {
        "texts": listing(voice, voice.texts, events.latest(voice.same[events.text], 3)),
        "ago": say(voice.phrases.ago, events.recency()),
    }


def breadth(events: Evidence, voice: Voice) -> tuple[Bools, Fields]:
    """How many different texts of how many categories, and how much of it is said again."""
    kind = voice.kind[events.text]
    count = events.count()
    distinct = np.bincount(events.distinct(voice.same[events.text]).owner, minlength=events.users)
    kinds = np.bincount(events.distinct(kind).owner, minlength=events.users)
    again = 1 - distinct / np.maximum(count, 1)
    return count > 0, {
        "repeats": say(voice.phrases.repeats, 2 - np.searchsorted([0.25, 0.6], again, side="right")),
        "distinct": say(voice.bands, value_band(distinct)),
        "kinds": kinds.astype(str).astype(object),
        "kind": voice.kinds[events.top(kind, 1)[0][:, 0]],
    }


def month(events: Evidence, voice: Voice) -> tuple[Bools, Fields]:
    """The third of the month and the date with most events, and the third with the largest sum of amounts."""
    date = events.time.astype("datetime64[s]").astype("datetime64[D]")
    date_of_month = (date - date.astype("datetime64[M]")).astype(np.int64)
    third = np.minimum(date_of_month // 10, 2)
    thirds, sums = events.tally(third, 3), events.sums(third, 3)
    total = thirds.sum(1)
    return total >= ENOUGH, {
        "third": say(voice.phrases.third, thirds.argmax(1)),
        "share": say(voice.phrases.share, tenths(thirds.max(1), total)),
        "date": (events.tally(date_of_month, 31).argmax(1) + 1).astype(str).astype(object),
        "money": say(
            voice.phrases.third,
            np.where(sums.max(1) > 0, sums.argmax(1), -1),
            voice.phrases.pause + voice.phrases.money,
        ),
    }


def change(events: Evidence, voice: Voice) -> tuple[Bools, Fields]:
    """The category that gained and the one that lost most events (3 or more) from the older to the newer half.

    Told from four events on, as the trend is.
    """
    middle = events.start + events.days * DAY // 2
    kind = voice.kind[events.text]
    newer = events.time >= middle[events.owner]
    shift = events.where(newer).tally(kind[newer], len(voice.kinds))
    shift -= events.where(~newer).tally(kind[~newer], len(voice.kinds))
    told = events.trend() > UNKNOWN
    up, down = told & (shift.max(1) >= 3), told & (shift.min(1) <= -3)
    return up | down, {
        "change": choose(
            voice.phrases.change,
            np.select([up & down, up, down], [2, 0, 1], -1),
            more=voice.kinds[shift.argmax(1)],
            less=voice.kinds[shift.argmin(1)],
        ),
        "half": str(events.days // 2),
        "trend": say(voice.phrases.trend, events.trend()),
    }


def profile(events: Evidence, voice: Voice) -> tuple[Bools, Fields]:
    """What the newest tabular snapshot says: all its texts, with the bands of their numbers."""
    newest = np.full(events.users, -1)
    np.maximum.at(newest, events.owner, events.time)
    last = events.where(events.time == newest[events.owner])
    number = say(voice.bands, np.where(np.isnan(last.value), -1, value_band(np.nan_to_num(last.value))), " ")
    items: list[dict[str, None]] = [{} for _ in range(events.users)]  # two rows of one time may say the same
    for user, item in zip(last.owner.tolist(), voice.texts[last.text] + number, strict=True):
        items[user][item] = None
    return events.count() > 0, {"items": np.array([*map(voice.phrases.semicolon.join, items), ""], object)[:-1]}


GENERAL: dict[str, Habit] = {
    "activity": activity,
    "day": day,
    "week": week,
    "interests": interests,
    "mix": mix,
    "regularity": regularity,
    "newest": newest,
    "breadth": breadth,
    "month": month,
    "change": change,
}
"""Asked of all modalities together."""
BY_MODALITY: dict[str, Habit] = {"favourites": favourites, "spending": spending, "profile": profile}
"""Asked of one modality: favourites of those that users act in, spending where events have values, profile of tabular
snapshots."""


HABITS = GENERAL | BY_MODALITY


def tenths(part: Ints, whole: Ints) -> Ints:
    """[B] part of the whole in tenths, halves up; -1 where there is no whole."""
    return np.where(whole > 0, (20 * part + whole) // np.maximum(2 * whole, 1), -1)


def listing(voice: Voice, names: Words, codes: Ints) -> Words:
    """[B] the names of up to three codes [B, 3] (-1: none), with commas."""
    commas = np.where(codes[:, 1:] >= 0, voice.phrases.comma, "").astype(object)
    told: Words = names[codes[:, 0]] + commas[:, 0] + names[codes[:, 1]] + commas[:, 1] + names[codes[:, 2]]
    return told


def _parts(events: Evidence, voice: Voice, names: Words, code: Ints, field: str) -> tuple[Bools, Fields]:
    """The three most frequent codes, each with its share of all events."""
    top, count = events.top(code, 3)
    total = events.count()
    told: Words = np.full(events.users, "", object)
    for place, lead in enumerate(("", voice.phrases.comma, voice.phrases.comma)):
        share = say(voice.phrases.share, tenths(count[:, place], total))
        frame = np.where(top[:, place] < 0, -1, 0)
        told = told + choose((lead + voice.phrases.part_of_all,), frame, name=names[top[:, place]], share=share)
    return total > 0, {field: told}
