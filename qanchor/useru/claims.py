"""Claims: what the fields of an answer may say, topic by topic. Shapes: B users, E events of theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise, product

import numpy as np

from qanchor.events.profiles import DAY
from qanchor.useru.evidence import Bools, Ints
from qanchor.useru.habits import ENOUGH
from qanchor.useru.recount import Claims, Floats, Recount, tied, told
from qanchor.useru.sentences import Claim, Listing, OneOf

Told = tuple[Bools, dict[str, Sequence[Claim]]]
"""Who has anything to tell [B], and what each field of the answers may say [B]."""


def future(recount: Recount) -> Told:
    """Texts of the window with their numbers of events; which of them were chosen is no claim."""
    phrases, groups = recount.voice.phrases, recount.groups(recount.texts())
    times = {n: phrases.pause + phrases.times[min(n, 3) - 1].format(count=n) for n in set(groups.size.tolist())}
    texts = recount.voice.texts[groups.code]
    items = [text + times[n] for text, n in zip(texts, groups.size.tolist(), strict=True)]
    return recount.count > 0, {"items": _listing(recount, groups.user, items)}


def focus(recount: Recount) -> Told:
    often = told(recount.voice.phrases.often, recount.often())
    return recount.count > 0, {"often": often, "onset": recount.onset(), "named": recount.named()}


def fact(recount: Recount, values: Sequence[tuple[str, Bools]]) -> Told:
    """`values`: names of amounts, each with the events [E] that have such an amount."""
    phrases = recount.voice.phrases
    return recount.count > 0, {
        "often": told(phrases.often, recount.often()),
        "ago": recount.ago(),
        "named": recount.named(),
        "when": _when(recount),
        "amount": _amount(recount, values),
        "trend": recount.trend(phrases.pause),
    }


def _when(recount: Recount) -> Claims:
    """The quarter of the day that has more than half of three or more events; the side of the week, unless even."""
    phrases, parts, side = recount.voice.phrases, recount.day_parts(), recount.week()
    total = parts.sum(1)
    clear = (total >= 3) & (2 * parts.max(1) > total)
    part = np.where(clear, parts.argmax(1), len(phrases.part))
    side = np.where((recount.count < ENOUGH) | (side == 2), len(phrases.week), side)
    early = [*(phrases.pause + phrases.mostly + word for word in phrases.part), ""]
    late = [*(phrases.pause + word for word in phrases.week), ""]
    return told(tuple(one + other for one, other in product(early, late)), part * len(late) + side)


def _amount(recount: Recount, values: Sequence[tuple[str, Bools]]) -> Claims:
    """The mean of the amounts of any one name; silence where there are none of some name."""
    words: list[tuple[str, ...]] = [() if values else ("",)] * len(recount.end)
    for name, has in values:
        mean, _ = _amounts(recount.where(has))
        lead = recount.voice.phrases.pause + recount.voice.phrases.amount.format(value=name)
        words = [(*some, *band.words) for some, band in zip(words, recount.bands(mean, lead), strict=True)]
    return [OneOf(some) for some in words]


def activity(recount: Recount) -> Told:
    level = (2 * recount.count[:, None] >= recount.active[:, None] * [3, 8, 24]).sum(1)
    return recount.count > 0, {
        "level": told(recount.voice.phrases.level, level),
        "events": recount.bands(recount.count),
        "trend": recount.trend(recount.voice.phrases.pause),
    }


def day(recount: Recount) -> Told:
    phrases, recount = recount.voice.phrases, recount.where(recount.timed)
    parts = recount.day_parts()
    least, _, second, most = np.sort(parts, 1).T[:, :, None]
    rare = (recount.count >= 20)[:, None] & (20 * least < recount.count[:, None])
    return recount.count > 0, {
        "first": tied(phrases.part, parts == most),
        "second": tied(phrases.part, (parts == second) & (parts > 0), phrases.next),
        "share": recount.tenths(most[:, 0]),
        "rarely": tied(phrases.part, (parts == least) & rare, phrases.pause + phrases.rarely),
    }


def week(recount: Recount) -> Told:
    days, weekday = recount.weekdays, recount.voice.phrases.weekday
    return recount.count >= ENOUGH, {
        "week": told(recount.voice.phrases.week, recount.week()),
        "busiest": tied(weekday, days == days.max(1, keepdims=True)),
        "quietest": tied(weekday, days == days.min(1, keepdims=True)),
    }


def spending(recount: Recount) -> Told:
    priced = recount.where(~np.isnan(recount.value))
    mean, total = _amounts(priced)
    largest = np.full(len(priced.end), -np.inf)
    np.maximum.at(largest, priced.user, priced.value)
    kinds = priced.groups(priced.kinds())
    return priced.count > 0, {
        "typical": recount.bands(mean),
        "largest": recount.bands(largest),
        "total": recount.bands(total),
        "kind": recount.top(kinds, kinds.total, recount.voice.kinds),
    }


def favourites(recount: Recount) -> Told:
    texts = recount.groups(recount.texts())
    best = recount.best(texts, texts.size, recount.voice.texts, 3)
    return recount.count > 0, {"texts": recount.in_order(best), "ago": recount.ago()}


def interests(recount: Recount) -> Told:
    return recount.count > 0, {"kinds": recount.shares(recount.kinds(), recount.voice.kinds)}


def mix(recount: Recount) -> Told:
    modality = recount.voice.modality[recount.text]
    return recount.count > 0, {"modalities": recount.shares(modality, recount.voice.modalities)}


def regularity(recount: Recount) -> Told:
    """Steps are days from one active day to the next."""
    user, date = recount.user[recount.starts_day], recount.time[recount.starts_day] // DAY
    longest = np.zeros(len(recount.end), np.int64)
    np.maximum.at(longest, user[1:], np.where(user[1:] == user[:-1], np.diff(date), 0))
    span = recount.last // DAY - recount.first // DAY
    step = (10 * span[:, None] >= (recount.active - 1)[:, None] * [13, 25, 50, 100]).sum(1)
    gap = (longest[:, None] - 1 > [2, 4, 7, 14, 30]).sum(1)
    return recount.active >= 3, {
        "rhythm": told(recount.voice.phrases.rhythm, step),
        "gap": told(recount.voice.phrases.gap, gap),
        "active": recount.bands(recount.active),
    }


def newest(recount: Recount) -> Told:
    texts = recount.groups(recount.texts())
    best = recount.best(texts, texts.newest, recount.voice.texts, 3)
    return recount.count > 0, {"texts": recount.in_order(best), "ago": recount.ago()}


def breadth(recount: Recount) -> Told:
    texts, kinds = recount.groups(recount.texts()), recount.groups(recount.kinds())
    distinct, different = (np.bincount(groups.user, minlength=len(recount.end)) for groups in (texts, kinds))
    again = 20 * (recount.count - distinct)
    return recount.count > 0, {
        "repeats": told(
            recount.voice.phrases.repeats,
            np.select([again >= 12 * recount.count, again >= 5 * recount.count], [0, 1], 2),
        ),
        "distinct": recount.bands(distinct),
        "kinds": [OneOf((str(number),)) for number in different.tolist()],
        "kind": recount.top(kinds, kinds.size, recount.voice.kinds),
    }


def month(recount: Recount) -> Told:
    phrases, date = recount.voice.phrases, recount.dates()
    dates, third = recount.groups(date), recount.groups(np.minimum(date // 10, 2))
    thirds, sums = recount.spread(third, third.size, 3), recount.spread(third, third.total, 3)
    busy, most = recount.spread(dates, dates.size, 31), sums.max(1, keepdims=True)
    return recount.count >= ENOUGH, {
        "third": tied(phrases.third, thirds == thirds.max(1, keepdims=True)),
        "share": recount.tenths(thirds.max(1)),
        "date": tied(tuple(map(str, range(1, 32))), busy == busy.max(1, keepdims=True)),
        "money": tied(phrases.third, (sums == most) & (most > 0), phrases.pause + phrases.money),
    }


def change(recount: Recount) -> Told:
    """What gained and what lost most events, and three or more, from the older to the newer half; of four or more."""
    frames, kinds = recount.voice.phrases.change, recount.groups(recount.kinds(), np.where(recount.newer, 1.0, -1.0))
    up, down = (recount.best(kinds, shift, recount.voice.kinds, 1) for shift in (kinds.total, -kinds.total))
    claims = []
    for gains, losses in zip(up, down, strict=True):
        more, less = ([name for shift, name in best if shift >= 3] for best in (gains, losses))
        frame = frames[2 if more and less else 1 if less else 0]
        pairs = product(more or [""], less or [""]) if more or less else ()
        claims.append(OneOf(tuple(frame.format(more=one, less=other) for one, other in pairs)))
    half = [OneOf((str(recount.days // 2),))] * len(claims)
    return np.array([bool(claim.words) for claim in claims]) & (recount.count >= 4), {
        "change": claims,
        "half": half,
        "trend": recount.trend(),
    }


def profile(recount: Recount) -> Told:
    """Texts of the newest snapshot with the bands of their numbers."""
    last = recount.where(recount.time == recount.last[recount.user])
    bands = recount.bands(last.value, " ")
    items = [text + band.words[0] for text, band in zip(recount.voice.texts[last.text], bands, strict=True)]
    return recount.count > 0, {"items": _listing(last, last.user, items)}


HABITS: dict[str, Callable[[Recount], Told]] = {
    "activity": activity,
    "day": day,
    "week": week,
    "spending": spending,
    "favourites": favourites,
    "interests": interests,
    "mix": mix,
    "regularity": regularity,
    "newest": newest,
    "breadth": breadth,
    "month": month,
    "change": change,
    "profile": profile,
}


def _amounts(priced: Recount) -> tuple[Floats, Floats]:
    """[B] mean (NaN without any) and sum of the values of events that all have one."""
    total = np.bincount(priced.user, priced.value, len(priced.end)).astype(np.float64)
    return np.where(priced.count > 0, total / np.maximum(priced.count, 1), np.nan), total


def _listing(recount: Recount, user: Ints, items: list[str]) -> list[Listing]:
    borders = np.searchsorted(user, np.arange(len(recount.end) + 1)).tolist()
    return [Listing(items[start:end], recount.voice.phrases.semicolon) for start, end in pairwise(borders)]
