"""Users of a small bazaar, each with a stall of their own, and a pool of a dozen topics."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np

from qanchor.config import Config, parse
from qanchor.events.profiles import DAY, Profiles, Texts
from qanchor.useru.topics import LifeTopic, Pool, Wording

AS_OF = int(dt.datetime(2024, 4, 1, tzinfo=dt.UTC).timestamp())
MODALITIES = ("bill", "search", "card")
KEYS = ("food", "tea", "cloth", "spice", "travel", "music", "health", "money", "pets", "sport", "books", "games")


def settings(url: str = "http://127.0.0.1:9/v1", language: str = "en", uqa: int = 10, **llm: Any) -> Config:
    source = {"path": "x.csv", "user": "u", "time": "t"}
    data = {
        "name": "bazaar",
        "sources": [
            {**source, "modality": "bill", "text": "{x}", "value": "amount"},
            {**source, "modality": "search", "text": "{x}"},
            {**source, "modality": "card", "features": ["city"]},
        ],
        "windows": {"train": ["2024-04-01"], "validation": ["2024-04-01"], "test": ["2024-05-01"]},
        "useru": {"language": language, "uqa": uqa, "llm": {"base_url": url, "model": "tiny", **llm}},
    }
    return parse(data, Path())


def profiles(events: list[list[tuple[float, str, str, float]]], ids: list[str] | None = None) -> Profiles:
    """Users by their events: days before as_of, modality, text, value."""
    table = sorted({(modality, text) for user in events for _, modality, text, _ in user})
    rows = [
        sorted(
            (AS_OF - int(days * DAY), MODALITIES.index(m), table.index((m, text)), value)
            for days, m, text, value in user
        )
        for user in events
    ]
    flat = [row for user in rows for row in user]
    time, modality, text, value = zip(*flat, strict=True) if flat else ((), (), (), ())
    return Profiles(
        np.array(ids or [f"customer-{n:04d}" for n in range(len(events))], object),
        np.full(len(events), AS_OF),
        np.cumsum([0] + [len(user) for user in rows]),
        np.array(time, np.int64),
        np.array(modality, np.uint8),
        np.array(text, np.int32),
        np.array(value, np.float32),
        MODALITIES,
        Texts(np.arange(len(table), dtype=np.uint64), *([row[k] for row in table] for k in (0, 0, 1))),
    )


def bazaar(users: int, first: int = 0) -> Profiles:
    """Users who each visit a stall of their own and drink the same tea."""
    own = [
        [(1.5, "bill", f"Stall {n}", 12.0), (3.0, "bill", "Green tea", 4.0), (9.0, "search", "saffron price", np.nan)]
        for n in range(first, first + users)
    ]
    return profiles(own, [f"customer-{n:04d}" for n in range(first, first + users)])


def pool(keys: tuple[str, ...] = KEYS) -> Pool:
    def wording(word: str, ask: str) -> Wording:
        return Wording(name=word, questions=(ask,), words=(word,))

    topics = (
        LifeTopic(key=key, en=wording(key, f"Any {key}?"), zh=wording(f"{key}类", f"有{key}吗？")) for key in keys
    )
    return Pool(topics=tuple(topics))
