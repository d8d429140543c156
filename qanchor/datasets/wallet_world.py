"""The wallet world without its people: topics, words, rhythms, and the catalogue of every text that can be logged.

D latents, J topics, S slots (word lists) a text, K rhythms, C calendar classes of users, W weeks.
"""

from __future__ import annotations

import datetime as dt
import itertools
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import yaml

Language = Literal["en", "zh"]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

START = dt.date(2025, 1, 1)
SOURCES = ("bill", "transfer", "mini", "spm", "app", "search")
"""What is logged, one folder each; bills and transfers are two sources of the modality bill."""
USES = ("bill", "mini", "spm", "app", "search")
ACTIVITY_SPREAD, USE_SPREAD = 0.95, 0.45
"""Standard deviations of the log of a user's activity and of the fondness for each modality."""
WEEKLY_CAP = 15.0
"""No topic happens more often than this in a week: rates saturate at it."""
SLOTS = 3
PAYDAYS = (1, 10, 15, 25)
SALE_DAYS = (8, 18, 28)

RHYTHMS: dict[str, tuple[list[tuple[float, float, float]], float, float, float]] = {
    # name: (hour, width, weight) of the day's peaks; weekend, payday and sale-day factor
    "any": ([(12, 4, 1.0), (20, 3, 1.0)], 1.0, 1.1, 1.0),
    "meal": ([(12, 1.2, 1.0), (18.5, 1.5, 1.2), (22, 1, 0.2)], 1.25, 1.2, 1.0),
    "commute": ([(8, 1, 1.0), (18, 1.3, 1.0)], 0.4, 1.0, 1.0),
    "office": ([(10, 1.5, 1.0), (15, 2, 1.0)], 0.5, 1.6, 1.0),
    "leisure": ([(13, 1.5, 0.4), (20.5, 2, 1.2)], 1.6, 1.2, 1.0),
    "shop": ([(12.5, 1.5, 0.5), (21, 1.8, 1.2)], 1.3, 1.8, 1.5),
    "sale": ([(10, 1, 0.6), (20, 1.2, 1.0), (23, 0.7, 0.4)], 1.2, 1.2, 4.0),
    "morning": ([(7.2, 0.9, 1.2), (21, 2, 0.4)], 1.0, 1.0, 1.0),
    "night": ([(23, 1.5, 1.0), (1.5, 1.2, 0.8), (20, 2, 0.4)], 1.2, 1.2, 1.0),
    "payday": ([(9.5, 1.2, 1.0)], 0.3, 60.0, 1.0),
}
WEEKEND_TASTES = (0.7, 1.0, 1.5)
CLASSES = len(WEEKEND_TASTES) * len(PAYDAYS)
"""Calendar classes: class = weekend taste * len(PAYDAYS) + payday."""


@dataclass(frozen=True)
class World:
    language: Language
    book: dict[str, Any]
    """wallet_topics.yaml."""
    topics: tuple[str, ...]
    """[J] names."""
    latents: tuple[str, ...]
    """[D] `activity`, five `use ...`, then the book's."""
    loading: Floats
    """[J, D] of the log rate."""
    base: Floats
    """[J] log of the weekly rate of a user whose latents are all 0."""
    source: Ints
    """[J] index into SOURCES; -1 for the risk flags."""
    rhythm: Ints
    """[J] index into RHYTHMS."""
    amount: Floats
    """[J] median of the value, NaN for none."""
    rounded: npt.NDArray[np.bool_]
    """[J] whether amounts are whole hundreds."""
    slots: Ints
    """[J, S] index into `lists`, -1 for none."""
    lists: tuple[str, ...]
    sizes: Ints
    """[lists] words a list."""
    habitual: npt.NDArray[np.bool_]
    """[lists] whether users have favourites in the list."""
    stride: Ints
    """[J, S]: text id = first[j] + sum over slots of stride * word."""
    first: Ints
    """[J] the topic's first text id."""
    columns: tuple[pa.Array, pa.Array, pa.Array]
    """By text id: first part, second part (empty where there is none), category."""

    def target(self, scenario: str) -> npt.NDArray[np.bool_]:
        """[J] which topics fire the scenario's label."""
        return np.array([self.book["topics"][name].get("target") == scenario for name in self.topics])

    def latent(self, name: str) -> int:
        return self.latents.index(name)

    def category(self, key: str) -> str:
        return str(self.book["categories"][key][self.language == "zh"])

    def words(self, entry: dict[str, Any]) -> Any:
        """The side of a bilingual entry that this world speaks."""
        return entry[self.language]


@lru_cache(maxsize=2)
def world(language: Language) -> World:
    """Read the two books and lay the world out in arrays."""
    book, dictionary = (
        yaml.safe_load(files(__package__).joinpath(name).read_text(encoding="utf-8"))
        for name in ("wallet_topics.yaml", "wallet_words.yaml")
    )
    words = {name: entry[language] for group in dictionary.values() for name, entry in group.items()}
    lists = tuple(words)
    topics = book["topics"]
    latents = ("activity", *(f"use {name}" for name in USES), *book["latents"])
    loading = np.array([_loading(topic, latents) for topic in topics.values()])
    monthly = np.array([topic["rate"] for topic in topics.values()])
    slots = np.full((len(topics), SLOTS), -1)
    for row, topic in enumerate(topics.values()):
        named = list(dict.fromkeys(re.findall(r"{(\w+)}", topic["en"])))
        slots[row, : len(named)] = [lists.index(name) for name in named]
    sizes = np.array([len(words[name]) for name in lists])
    radix = np.where(slots >= 0, sizes[slots], 1)
    stride = np.cumprod(np.concatenate([np.ones((len(radix), 1), int), radix[:, :-1]], axis=1), axis=1)
    return World(
        language=language,
        book=book,
        topics=tuple(topics),
        latents=latents,
        loading=loading,
        base=np.log(monthly * 7 / 30) - 0.5 * (loading**2).sum(1),
        source=np.array([SOURCES.index(t["in"]) if t["in"] in SOURCES else -1 for t in topics.values()]),
        rhythm=np.array([list(RHYTHMS).index(topic["when"]) for topic in topics.values()]),
        amount=np.array([topic.get("amount", np.nan) for topic in topics.values()], dtype=float),
        rounded=np.array([topic.get("round", False) for topic in topics.values()]),
        slots=slots,
        lists=lists,
        sizes=sizes,
        habitual=np.array([name in dictionary["words"] for name in lists]),
        stride=stride,
        first=np.concatenate([[0], np.cumsum(radix.prod(1))[:-1]]),
        columns=_catalogue(book, words, lists, slots, language),
    )


def _loading(topic: dict[str, Any], latents: tuple[str, ...]) -> list[float]:
    modality = "bill" if topic["in"] == "transfer" else topic["in"]
    of = {"activity": topic["act"] * ACTIVITY_SPREAD, f"use {modality}": topic["act"] * USE_SPREAD, **topic["likes"]}
    return [of.get(latent, 0.0) for latent in latents]


def _catalogue(
    book: dict[str, Any], words: dict[str, list[str]], lists: tuple[str, ...], slots: Ints, language: Language
) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Every text of every topic, in the order of its text id (the first slot turns fastest)."""
    texts, categories = [], []
    for topic, row in zip(book["topics"].values(), slots, strict=True):
        names = [lists[slot] for slot in row if slot >= 0]
        for choice in itertools.product(*(words[name] for name in reversed(names))):
            texts.append(topic[language].format(**dict(zip(reversed(names), choice, strict=True))))
            categories.append(book["categories"][topic["cat"]][language == "zh"])
    parts = [text.partition(" | ") for text in texts]
    return pa.array([part[0] for part in parts]), pa.array([part[2] for part in parts]), pa.array(categories)


def calendar(days: int) -> Floats:
    """[C, K, days] factors on the daily rate: weekday, payday and sale days; 1 on average over the year."""
    length = max(days, 364)
    dates = [START + dt.timedelta(days=day) for day in range(length)]
    weekend = np.array([date.weekday() >= 5 for date in dates])
    sale = np.array([date.day in SALE_DAYS for date in dates])
    factors = np.empty((len(WEEKEND_TASTES), len(PAYDAYS), len(RHYTHMS), length))
    for (w, taste), (p, payday) in itertools.product(enumerate(WEEKEND_TASTES), enumerate(PAYDAYS)):
        paid = np.array([0 <= date.day - payday <= 1 for date in dates])
        for k, (_, on_weekend, on_payday, on_sale) in enumerate(RHYTHMS.values()):
            factors[w, p, k] = (
                np.where(weekend, on_weekend * taste, 1) * np.where(paid, on_payday, 1) * np.where(sale, on_sale, 1)
            )
    factors /= factors[..., :364].mean(-1, keepdims=True)
    return factors[..., :days].reshape(CLASSES, len(RHYTHMS), days)


def hours() -> Floats:
    """[K, 24] chance of each hour."""
    clock = np.arange(24) + 0.5
    table = np.full((len(RHYTHMS), 24), 0.004)
    for row, (peaks, *_) in zip(table, RHYTHMS.values(), strict=True):
        for hour, width, weight in peaks:
            gap = np.abs(clock - hour)
            row += weight / width * np.exp(-0.5 * (np.minimum(gap, 24 - gap) / width) ** 2)
    return np.asarray(table / table.sum(1, keepdims=True))
