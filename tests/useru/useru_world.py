"""A small made-up world: users with tastes of their own over a few hundred texts, in English or Chinese."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from qanchor.config import Config, parse
from qanchor.events.profiles import DAY, Profiles, Texts
from qanchor.useru.survey import Survey

AS_OF = int(dt.datetime(2024, 4, 1, tzinfo=dt.UTC).timestamp())
Event = tuple[int, str, str, str, float]
"""Seconds, modality, category, text, value."""

ENGLISH = {
    "bill": {
        "coffee": ["Latte at Blue Door", "Flat white at North Corner", "Beans from Old Mill Coffee"],
        "fast food": ["Noodle box at Wok Hall", "Burger menu at Smoky Joe", "Pizza slices at Forno"],
        "groceries": ["Vegetables at Green Basket", "Weekly shop at Hilltop Market", "Bakery bread at Crumb"],
        "transport": ["Metro ticket", "Bus pass", "Parking at Station Square"],
    },
    "search": {
        "concerts": ["concert tickets tonight", "indie festival dates", "jazz concerts near me"],
        "visa": ["schengen visas appointment", "visa photo size", "embassy opening hours"],
        "health": ["dentist open on sunday", "knee pain running", "vitamin deficiency signs"],
        "everyday": ["Weather", "library opening hours"],
    },
    "app": {"tools": ["Calendar", "Scanner", "Weather"], "games": ["Puzzle Garden", "Racing Club", "Word Tower"]},
}
CHINESE = {
    "账单": {
        "咖啡": ["拿铁咖啡", "美式咖啡馆", "手冲咖啡豆"],
        "外卖": ["外卖套餐午饭", "麻辣烫外卖", "外卖披萨"],
        "交通": ["地铁单程票", "公交月卡", "停车场缴费"],
    },
    "搜索": {"演出": ["演唱会门票", "音乐节时间", "话剧排期"], "签证": ["申根签证预约", "签证照片尺寸", "使馆地址"]},
}


class World(NamedTuple):
    config: Config
    past: Profiles
    future: Profiles


def profiles(users: list[list[Event]], table: Texts, modalities: tuple[str, ...], as_of: list[int]) -> Profiles:
    """Profiles of hand-written events, put in canonical order."""
    row = {key: n for n, key in enumerate(zip(table.modality, table.category, table.text, strict=True))}
    sorts = [sorted((e[0], modalities.index(e[1]), row[e[1:4]], e[4]) for e in events) for events in users]
    flat = [event for events in sorts for event in events]
    time, modality, text, value = zip(*flat, strict=True) if flat else ((), (), (), ())
    return Profiles(
        np.array([f"user{n}" for n in range(len(users))], object),
        np.array(as_of, np.int64),
        np.cumsum([0] + [len(events) for events in users]),
        np.array(time, np.int64),
        np.array(modality, np.uint8),
        np.array(text, np.int32),
        np.array(value, np.float32),
        modalities,
        table,
    )


def build(config: Config, past: Profiles, future: Profiles, seed: int) -> pl.DataFrame:
    """All pairs of a survey."""
    survey = Survey(config, past, future, seed)
    return pl.concat([survey.part(number).pairs for number in range(survey.parts)])


def settings(modalities: tuple[str, ...], language: str = "en", **useru: float) -> Config:
    value = "amount" if language == "en" else "金额"
    source = {"path": "x.csv", "user": "u", "time": "t", "text": "{x}", "value": value}
    day = {"train": [dt.date(2024, 4, 1)], "validation": [dt.date(2024, 4, 1)], "test": [dt.date(2024, 5, 1)]}
    data = {
        "name": "world",
        "sources": [{**source, "modality": modality} for modality in modalities],
        "windows": day,
        "useru": {"language": language, **useru},
    }
    return parse(data, Path())


def simulate(users: int, seed: int, language: str = "en", **useru: float) -> World:
    """Users who prefer a few categories, some busy, some nearly idle, one in ten without a future."""
    rng = np.random.default_rng(seed)
    tree = ENGLISH if language == "en" else CHINESE
    rows = [(m, c, text) for m, kinds in tree.items() for c, texts in kinds.items() for text in texts]
    table = Texts(np.arange(len(rows), dtype=np.uint64), *(list(column) for column in zip(*rows, strict=True)))
    taste = rng.gamma(0.15, size=(users, len(rows))) + 1e-6
    taste /= taste.sum(1, keepdims=True)

    def draw(user: int, low: int, days: int, rate: float) -> list[Event]:
        kinds = rng.choice(len(rows), rng.poisson(rate * days), p=taste[user])
        times = AS_OF + rng.integers(low * DAY, (low + days) * DAY, len(kinds))
        values = np.where(kinds % 3 > 0, rng.lognormal(3, 1, len(kinds)).round(2), np.nan)
        return [(int(t), *rows[k], float(v)) for t, k, v in zip(times, kinds, values, strict=True)]

    rates = rng.gamma(0.7, 0.6, users)
    past = [draw(user, -90, 90, rates[user]) for user in range(users)]
    future = [draw(user, 0, 30, rates[user] * (rng.random() > 0.1)) for user in range(users)]
    modalities = tuple(tree)
    as_of = [AS_OF] * users
    return World(
        settings(modalities, language, **useru),
        profiles(past, table, modalities, as_of),
        profiles(future, table, modalities, as_of),
    )
