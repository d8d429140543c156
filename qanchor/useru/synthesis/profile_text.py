"""A profile as numbered lines for an LLM: what, how often, how recently, how much; never whose.

[bill] 42 events, 2 of 17 different ones shown
1. Latte at Blue Door | 12 times | 3 days ago | amount 5-10
2. Metro ticket | once | less than a day ago
[search] nothing
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import polars as pl

from qanchor.config import Config
from qanchor.events.profiles import DAY, Profiles
from qanchor.events.verbalise import band
from qanchor.useru.synthesis.redact import Redactor

CHUNK = 1024
"""Profiles whose lines are chosen at once."""


@dataclass(frozen=True)
class Terms:
    """How a language says it."""

    heading: str
    nothing: str
    once: str
    times: str
    today: str
    yesterday: str
    days: str


TERMS = {
    "en": Terms(
        heading="[{modality}] events {events}, different {distinct}, shown {shown}",
        nothing="[{modality}] nothing",
        once="once",
        times="{count} times",
        today="less than a day ago",
        yesterday="1 day ago",
        days="{days} days ago",
    ),
    "zh": Terms(
        heading="[{modality}] 共{events}条，不同的{distinct}种，列出{shown}种",
        nothing="[{modality}] 无记录",
        once="1次",
        times="{count}次",
        today="不到1天前",
        yesterday="1天前",
        days="{days}天前",
    ),
}


@dataclass(frozen=True)
class ProfileText:
    """One key's profile, ready to be sent."""

    user_id: str
    """Stays here: `text` does not hold it."""
    as_of: int
    """Seconds."""
    text: str
    lines: tuple[str, ...]
    """Line n is `lines[n - 1]`, without its number."""
    blots: int
    """How often something was blotted out."""

    @property
    def digest(self) -> str:
        """Changes when what is sent does."""
        return hashlib.blake2b(self.text.encode(), digest_size=8).hexdigest()


def profile_texts(config: Config, past: Profiles, redactor: Redactor, max_lines: int) -> Iterator[ProfileText]:
    """Every profile, in order.

    A modality's distinct texts are ranked by the better of their two places, by count and by recency (tabular
    snapshots by recency alone); the modalities take turns until there are `max_lines` lines.
    """
    writer = Writer(config, past, redactor)
    for start in range(0, len(past), CHUNK):
        part = past.take(np.arange(start, min(start + CHUNK, len(past))))
        rows = _choose(part, writer.snapshots, max_lines).rows_by_key("owner")
        for row, (user, as_of) in enumerate(zip(part.user_ids, part.as_of, strict=True)):
            yield writer.write(user, int(as_of), rows.get(row, ()))


class Writer:
    """Puts chosen lines into words."""

    def __init__(self, config: Config, past: Profiles, redactor: Redactor) -> None:
        self.terms = TERMS[config.useru.language]
        self.redactor, self.modalities, self.texts = redactor, past.modalities, past.texts.text
        values = {source.modality: source.value.replace("_", " ") for source in config.sources[::-1] if source.value}
        self.values = [values.get(modality, "") for modality in past.modalities]
        features = {source.modality for source in config.sources if source.features}
        self.snapshots = [code for code, modality in enumerate(past.modalities) if modality in features]

    def write(self, user: str, as_of: int, rows: Iterable[tuple[Any, ...]]) -> ProfileText:
        """`rows`: of one profile, as `_choose` returns them, without `owner`."""
        groups = {code: list(group) for code, group in itertools.groupby(rows, key=itemgetter(0))}
        told: list[str] = []
        lines: list[str] = []
        blots = 0
        for code in range(len(self.modalities)):
            told.append(self._heading(code, groups.get(code, [])))
            for _, text, count, days, amount, *_ in groups.get(code, []):
                clean, found = self.redactor.clean(self.texts[text], user)
                blots += found
                lines.append(" | ".join([clean, *self._facts(code, count, days, amount)]))
                told.append(f"{len(lines)}. {lines[-1]}")
        return ProfileText(user, as_of, "\n".join(told), tuple(lines), blots)

    def _heading(self, code: int, group: list[tuple[Any, ...]]) -> str:
        if not group:
            return self.terms.nothing.format(modality=self.modalities[code])
        *_, events, distinct = group[0]
        return self.terms.heading.format(
            modality=self.modalities[code], events=events, distinct=distinct, shown=len(group)
        )

    def _facts(self, code: int, count: int, days: int, amount: str | None) -> Iterator[str]:
        if code not in self.snapshots:  # in how many snapshots something stood says nothing
            yield self.terms.once if count == 1 else self.terms.times.format(count=count)
        near = (self.terms.today, self.terms.yesterday)
        yield near[days] if days < len(near) else self.terms.days.format(days=days)
        if amount:
            yield f"{self.values[code]} {amount}".strip()


def _choose(part: Profiles, snapshots: list[int], max_lines: int) -> pl.DataFrame:
    """The lines to show, in order: owner, modality, text, count, days (before as_of), band (of the median value), and
    of their whole modality `events` and `distinct`."""
    columns = {"owner": part.owner, "modality": part.modality, "text": part.text, "time": part.time}
    modality, place = ("owner", "modality"), pl.int_range(pl.len()).over("owner", "modality")
    texts = (
        pl.DataFrame({**columns, "value": part.value})
        .with_columns(pl.col("value").fill_nan(None))
        .group_by(*modality, "text")
        .agg(count=pl.len(), last=pl.col("time").max(), value=pl.col("value").median())
        .sort(*modality, "last", "count", "text", descending=[False, False, True, True, False])
        .with_columns(by_last=place)
        .sort(*modality, "count", "last", "text", descending=[False, False, True, True, False])
        .with_columns(by_count=place, events=pl.col("count").sum().over(modality), distinct=pl.len().over(modality))
    )
    rank = (
        pl.when(pl.col("modality").is_in(snapshots)).then("by_last").otherwise(pl.min_horizontal("by_last", "by_count"))
    )
    as_of = pl.Series(part.as_of).gather(texts["owner"])
    return (
        texts.with_columns(rank=rank, days=(as_of - texts["last"]) // DAY, band=band(texts["value"]))
        .sort("owner", "rank", "modality", "by_count")
        .filter(pl.int_range(pl.len()).over("owner") < max_lines)
        .sort("owner", "modality", "by_count")
        .select("owner", "modality", "text", "count", "days", "band", "events", "distinct")
    )
