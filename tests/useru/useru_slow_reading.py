"""What every answer should say, read from the events one by one, without numpy and without the package's own numbers.

Only the words (tables and frames) come from the package. Events are (seconds, modality, category, text, value).
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import pairwise

from useru_world import Event

from qanchor.events.profiles import DAY, Profiles
from qanchor.useru.phrases import Phrases

Fields = dict[str, str]


def read(profiles: Profiles, row: int) -> list[Event]:
    table = profiles.texts
    span = range(profiles.offsets[row], profiles.offsets[row + 1])
    rows = ((int(profiles.time[e]), int(profiles.text[e]), float(profiles.value[e])) for e in span)
    return [(time, table.modality[t], table.category[t], table.text[t], value) for time, t, value in rows]


def says(name: str, event: Event) -> bool:
    """Whether an event speaks of a concept: all words of one of the names that it unites, singular or plural."""
    said = " ".join(event[1:4]).lower()
    return any(all(_has(said, word) for word in part.split()) for part in re.split(", | or ", name))


def _has(said: str, word: str) -> bool:
    root = word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
    return re.search(rf"(?<![a-z]){root}s?(?![a-z])", said) is not None


def often(events: list[Event], days: int) -> int:
    active = len({e[0] // DAY for e in events})
    weekly = active * 7 / days
    if len(events) <= 2:
        return len(events)
    if weekly < 0.7:
        return 4 if len(events) >= 8 and len(events) >= 4 * active else 3
    return 5 if weekly < 1.5 else 6 if weekly < 5 else 7


def ago(events: list[Event], end: int) -> int:
    past = (end - max(e[0] for e in events)) / DAY
    return sum(past > edge for edge in (1, 3, 7, 14, 28))


def trend(events: list[Event], end: int, days: int) -> int:
    newer = sum(e[0] >= end - days * DAY / 2 for e in events)
    older = len(events) - newer
    if len(events) < 4:
        return 0
    return 1 if older == 0 else 2 if newer >= 1.5 * older else 4 if older >= 1.5 * newer else 3


def band(value: float) -> str:
    edges = [0] + [step * 10**power for power in range(7) for step in (1, 2, 5)]
    if value < 0:
        return "below zero"
    below = [edge for edge in edges if edge <= value][-1]
    above = [edge for edge in edges if edge > value]
    return f"{below}-{above[0]}" if above else f"{below}+"


def most(events: list[Event], key: Callable[[Event], object]) -> list[tuple[object, int]]:
    """Values and counts, the most frequent first, then the newest."""
    count, newest = Counter(map(key, events)), {key(e): e[0] for e in events}
    return sorted(count.items(), key=lambda item: (-item[1], -newest[item[0]]))


def text(event: Event) -> str:
    return event[3]


def named(events: list[Event], words: Phrases) -> str:
    top = most(events, text)
    first, second = str(top[0][0]), str(top[1][0]) if len(top) > 1 else ""
    if len(top) == 1:
        number = 0 if len(events) == 1 else 1
    else:
        number = 2 if top[0][1] > len(events) / 2 else 3 if len(top) == 2 else 4
    return words.named[number].format(first=first, second=second)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def values(events: list[Event]) -> list[float]:
    return [e[4] for e in events if not math.isnan(e[4])]


def week_side(events: list[Event]) -> int:
    if len(events) < 5:
        return -1
    weekend = mean([float(date(e).weekday() >= 5) for e in events])
    return sum(weekend > edge + 1e-12 for edge in (0.1, 0.2, 0.4, 0.6))


def date(event: Event) -> dt.datetime:
    return dt.datetime.fromtimestamp(event[0], dt.UTC)


def part_of_day(event: Event) -> int:
    return date(event).hour // 6


def tenths(part: int, whole: int) -> int:
    return math.floor(10 * part / whole + 0.5 + 1e-9)


def fact(name: str, every: list[Event], end: int, days: int, words: Phrases) -> tuple[bool, Fields]:
    events = [e for e in every if says(name, e)]
    fields = {"concept": name, "days": str(days), "otherwise": words.otherwise[often(every, days)]}
    if not events:
        return False, fields
    part = Counter(map(part_of_day, events)).most_common(1)[0]
    side, amounts = week_side(events), values(events)
    moves = words.trend[trend(events, end, days)]
    return True, fields | {
        "often": words.often[often(events, days)],
        "ago": words.ago[ago(events, end)],
        "named": named(events, words),
        "when": (f", mostly {words.part[part[0]]}" if len(events) >= 3 and part[1] > len(events) / 2 else "")
        + (f", {words.week[side]}" if side in (0, 1, 3, 4) else ""),
        "amount": f", typical amount {band(mean(amounts))}" if amounts else "",
        "trend": f", {moves}" if moves else "",
    }


def focus(name: str, every: list[Event], start: int, days: int, words: Phrases) -> tuple[bool, Fields]:
    events = [e for e in every if says(name, e)]
    fields = {"concept": name, "period": words.period(days), "otherwise": words.otherwise[often(every, days)]}
    if not events:
        return False, fields
    third = math.floor((events[0][0] - start) / (days * DAY) * 3)
    return True, fields | {
        "often": words.often[often(events, days)],
        "onset": words.onset[third + (3 if len(events) > 1 else 0)],
        "named": named(events, words),
    }


def summary(
    events: list[Event], start: int, days: int, kind: dict[str, tuple[str, str]], discount: float
) -> list[tuple[str, int]]:
    """The greedy choice of `future.representatives`: (text, count), best first. `kind` is in the order of the table."""
    bins: dict[str, Counter[int]] = defaultdict(Counter)
    for e in events:
        bins[e[3]][math.floor((e[0] - start) / (days * DAY) * 3)] += 1
    bin_of = {name: min(b, key=lambda n: (-b[n], n)) for name, b in bins.items()}
    chosen: list[str] = []
    while len(chosen) < min(6, len(bins)):

        def gain(name: str) -> float:
            crowd = sum((kind[name] == kind[o]) + (bin_of[name] == bin_of[o]) for o in chosen)
            return math.log(1 + bins[name].total()) * discount**crowd

        left = [name for name in kind if name in bins and name not in chosen]
        chosen.append(max(left, key=lambda name: round(gain(name), 12)))
    return [(name, bins[name].total()) for name in chosen]


def general(habit: str, events: list[Event], end: int, days: int, words: Phrases) -> tuple[bool, Fields]:
    """Fields of one habit of the events that it is about."""
    count, active = len(events), sorted({e[0] // DAY for e in events})
    fields = {"days": str(days), "often": words.often[often(events, days)], "value": "amount"}
    if events:
        fields |= {"ago": words.ago[ago(events, end)]}
    moves = words.trend[trend(events, end, days)] if events else ""
    lead = f", {moves}" if moves else ""
    if habit == "activity":
        level = sum(count / max(1, len(active)) >= edge for edge in (1.5, 4, 12))
        return count > 0, fields | {"level": words.level[level], "events": band(count), "trend": lead}
    if habit == "day":
        parts = Counter(map(part_of_day, events))
        order = sorted(range(4), key=lambda n: (-parts[n], n))
        rare = count >= 20 and min(parts[n] for n in range(4)) < count / 20
        return count > 0, fields | {
            "first": words.part[order[0]],
            "second": words.next + words.part[order[1]] if parts[order[1]] else "",
            "share": words.share[tenths(parts[order[0]], max(1, count))],
            "rarely": f", hardly ever {words.part[order[3]]}" if rare else "",
        }
    if habit == "week":
        days_of = Counter(date(e).weekday() for e in events)
        return count >= 5, fields | {
            "week": words.week[week_side(events)] if count >= 5 else "",
            "busiest": words.weekday[max(range(7), key=lambda n: (days_of[n], -n))],
            "quietest": words.weekday[max(range(7), key=lambda n: (-days_of[n], n))],
        }
    if habit == "favourites":
        return count > 0, fields | {"texts": ", ".join(str(name) for name, _ in most(events, text)[:3])}
    if habit in ("interests", "mix"):
        key: Callable[[Event], object] = (lambda e: e[2]) if habit == "interests" else (lambda e: e[1])
        top = most(events, key)[:3]
        told = [f"{name} ({words.share[tenths(n, count)]})" for name, n in top]
        return count > 0, fields | {"kinds": ", ".join(told), "modalities": ", ".join(told)}
    if habit == "newest":
        last = {e[3]: e[0] for e in events}
        return count > 0, fields | {"texts": ", ".join(sorted(last, key=lambda name: -last[name])[:3])}
    if habit == "regularity":
        steps = [b - a for a, b in pairwise(active)]
        if len(active) < 3:
            return False, fields
        return True, fields | {
            "rhythm": words.rhythm[sum(mean([float(s) for s in steps]) >= edge for edge in (1.3, 2.5, 5, 10))],
            "gap": words.gap[sum(max(steps) - 1 > edge for edge in (2, 4, 7, 14, 30))],
            "active": band(len(active)),
        }
    if habit == "breadth":
        distinct = len(set(map(text, events)))
        again = 1 - distinct / max(1, count)
        return count > 0, fields | {
            "repeats": words.repeats[0 if again >= 0.6 else 1 if again >= 0.25 else 2],
            "distinct": band(distinct),
            "kinds": str(len({e[2] for e in events})),
            "kind": str(most(events, lambda e: e[2])[0][0]) if events else "",
        }
    if habit == "change":
        shift = Counter({e[2]: 0 for e in events})
        for e in events:
            shift[e[2]] += 1 if e[0] >= end - days * DAY / 2 else -1
        order = sorted(shift)
        up, down = (max(order, key=lambda n: shift[n]), min(order, key=lambda n: shift[n])) if order else ("", "")
        grows, falls = count >= 4 and shift[up] >= 3, count >= 4 and shift[down] <= -3
        number = 2 if grows and falls else 0 if grows else 1
        change = words.change[number].format(more=up, less=down) if grows or falls else ""
        return grows or falls, fields | {"change": change, "half": str(days // 2), "trend": moves}
    if habit == "month":
        third = [min((date(e).day - 1) // 10, 2) for e in events]
        days_of, sums = Counter(date(e).day for e in events), [0.0, 0.0, 0.0]
        for n, e in zip(third, events, strict=True):
            sums[n] += 0 if math.isnan(e[4]) else e[4]
        best = max(range(3), key=lambda n: (third.count(n), -n))
        money = f", most money {words.third[max(range(3), key=lambda n: sums[n])]}" if max(sums) > 0 else ""
        return count >= 5, fields | {
            "third": words.third[best],
            "share": words.share[tenths(third.count(best), max(1, count))],
            "date": str(max(range(1, 32), key=lambda n: (days_of[n], -n))),
            "money": money,
        }
    assert habit == "spending"
    amounts = values(events)
    if not amounts:
        return False, fields
    by_kind: dict[str, float] = defaultdict(float)
    for e in events:
        by_kind[e[2]] += 0 if math.isnan(e[4]) else e[4]
    return True, fields | {
        "typical": band(mean(amounts)),
        "largest": band(max(amounts)),
        "total": band(sum(amounts)),
        "kind": max(sorted(by_kind), key=lambda name: by_kind[name]),
    }
