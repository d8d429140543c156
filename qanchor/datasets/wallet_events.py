"""What the people of the wallet world do: Poisson counts per user, week and topic, then the time and the text of each.

U users of a chunk, W weeks, J topics, E events.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qanchor.datasets.wallet_people import People, Streams
from qanchor.datasets.wallet_world import SLOTS, WEEKLY_CAP, Floats, Ints, World, calendar, hours

HABIT = 0.7
"""Chance that a word is one of the user's favourites and not a fresh draw."""
ZIPF = 0.9
FAVOURITES = np.array([0.55, 0.85])
"""Cumulated chances of the first and the second favourite; there are three, and they turn over in about half a year."""
ERA_WEEKS = 26
DAY = 86_400


@dataclass(frozen=True)
class Events:
    """E events of a chunk, ordered by user, week and topic."""

    user: Ints
    """[E] row of People."""
    topic: Ints
    second: Ints
    """[E] since the simulation's start."""
    text: Ints
    """[E] text id of the world's catalogue."""
    value: Floats
    """[E] amount of money or seconds of stay; NaN for none."""


def weekly_rates(
    world: World, latents: Floats, topics: Ints | slice = slice(None), shift: Floats | float = 0
) -> Floats:
    """[U, W, D] latents -> [U, W, topics] events a week on average days, saturating; `shift` is added to the log."""
    rates = np.exp(latents @ world.loading[topics].T + (world.base[topics] + shift))
    return np.asarray(rates / (1 + rates / WEEKLY_CAP))


def events(world: World, people: People, days: int, stream: Streams) -> Events:
    """Everything that the chunk's people do in `days` days."""
    daily = calendar_weeks(calendar(days))
    rates = weekly_rates(world, people.latents)
    rates *= daily.mean(-1)[people.calendar][:, :, world.rhythm]
    counts = stream("counts").poisson(rates).ravel()
    happened = np.flatnonzero(counts)
    cell = np.repeat(happened, counts[happened])
    user, week, topic = np.unravel_index(cell, rates.shape)
    day = week * 7 + _pick(
        daily.reshape(-1, 7),
        (people.calendar[user] * daily.shape[1] + week) * daily.shape[2] + world.rhythm[topic],
        stream("day").random(len(cell)),
    )
    return Events(
        user=user,
        topic=topic,
        second=day * DAY + _clock(world, people, user, day, topic, stream),
        text=world.first[topic] + (world.stride[topic] * _words(world, people, user, week, topic, stream)).sum(1),
        value=_value(world, people, user, topic, stream),
    )


def calendar_weeks(daily: Floats) -> Floats:
    """Cut days into weeks: [C, K, days] -> [C, W, K, 7]; the days after the end of the simulation have factor 0."""
    classes, kinds, days = daily.shape
    padded = np.zeros((classes, kinds, -(-days // 7) * 7))
    padded[..., :days] = daily
    return padded.reshape(classes, kinds, -1, 7).transpose(0, 2, 1, 3)


def _pick(weights: Floats, row: Ints, uniform: Floats) -> Ints:
    """[E] a column of weights[row], drawn in proportion: one search over all rows' cumulated weights, end to end."""
    cumulated = np.cumsum(weights, axis=1)
    cumulated /= np.maximum(cumulated[:, -1:], 1e-300)
    line = (cumulated + np.arange(len(weights))[:, None]).ravel()
    at = np.searchsorted(line, row + uniform, side="right") - row * weights.shape[1]
    return np.asarray(np.minimum(at, weights.shape[1] - 1))


def _clock(world: World, people: People, user: Ints, day: Ints, topic: Ints, stream: Streams) -> Ints:
    """[E] second of the day: the rhythm's hour, and within it the user's one session of that hour."""
    hour = _pick(hours(), world.rhythm[topic], stream("hour").random(len(user)))
    hour = (hour + people.shift[user]) % 24
    session = _fixed(people.key[user], day, hour) * 3000
    pause = np.minimum(stream("pause").exponential(150, len(user)), 590)
    return hour * 3600 + (session + pause).astype(np.int64)


def _words(world: World, people: People, user: Ints, week: Ints, topic: Ints, stream: Streams) -> Ints:
    """[E, S] the word of each slot: a favourite of the user's, the user's city, or a fresh Zipf draw."""
    words = np.zeros((len(user), SLOTS), dtype=np.int64)
    zipf = np.zeros((len(world.lists), world.sizes.max()))
    for row, size in zip(zipf, world.sizes, strict=True):
        row[:size] = 1 / np.arange(1, size + 1) ** ZIPF
    key = people.key[user]
    era = (week + (_fixed(key, 0, 0) * ERA_WEEKS).astype(np.int64)) // ERA_WEEKS
    for slot in range(SLOTS):
        kind = world.slots[topic, slot]
        coin, fresh = stream(f"coin{slot}").random(len(user)), stream(f"word{slot}").random(len(user))
        favourite = np.searchsorted(FAVOURITES, coin / HABIT)
        known = _fixed(key, kind * 4 + favourite, era + 1)
        draw = np.where((coin < HABIT) & world.habitual[kind], known, fresh)
        drawn = _pick(zipf, np.maximum(kind, 0), draw)
        at_home = (kind == world.lists.index("city")) & (coin < 0.92)
        words[:, slot] = np.where(kind < 0, 0, np.where(at_home, people.city[user, week], drawn))
    return words


def _value(world: World, people: People, user: Ints, topic: Ints, stream: Streams) -> Floats:
    """[E] log-normal around the topic's median; money grows with income, and some sums are whole hundreds."""
    money = np.isin(world.source[topic], (0, 1))
    spread = stream("value").standard_normal(len(user)) * 0.7
    value = world.amount[topic] * np.exp(spread + np.where(money, 0.3 * people.traits[user, 1], 0))
    return np.where(world.rounded[topic], np.maximum(np.rint(value / 100), 1) * 100, np.round(value, 2))


def _fixed(*parts: Ints | int) -> Floats:
    """A number in [0, 1) that is the same for the same integers (splitmix64)."""
    state = np.uint64(0x9E3779B97F4A7C15)
    mixed: npt.NDArray[np.uint64] = np.zeros(1, np.uint64)
    for part in parts:
        mixed = (mixed + np.asarray(part).astype(np.uint64)) * np.uint64(0xBF58476D1CE4E5B9) + state
        mixed ^= mixed >> np.uint64(31)
        mixed *= np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(29)
    return (mixed >> np.uint64(11)).astype(np.float64) / 2**53
