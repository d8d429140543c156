"""Staged rows to published days: each touched day is put together once and replaced whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import polars as pl

from qanchor.events.intake import Outcome
from qanchor.events.partitions import SCHEMA, Day, Part, Partitions
from qanchor.events.staging import Staging


@dataclass(frozen=True)
class Published:
    day: int
    events: int
    """Events of this run."""
    reject_rate: float
    refused: bool
    """Too many rejects: the day is as it was."""
    parts: frozenset[str]
    """The files of this run that touch the day, or touched it before."""


@dataclass(frozen=True)
class Publisher:
    store: Partitions
    staging: Staging
    taken: dict[str, Outcome]
    """The files of this run that were not refused, by part."""
    max_reject_rate: float

    def publish(self) -> Iterator[Published]:
        """Replace every day that the files touch now or touched before, in order."""
        days = {day for outcome in self.taken.values() for day in outcome.days} | self.staging.days()
        known = self.store.days()
        published = zip(known, self.store.read_days(known), strict=True)
        days |= {day for day, its in published if self.taken.keys() & its.parts.keys()}
        # a day is put together while another waits for the disk
        with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
            yield from pool.map(self._day, sorted(days))

    def _day(self, day: int) -> Published:
        old = self.store.day(day)
        new = self._parts(day, old)
        rate = Day({}, new).reject_rate
        refused = rate > self.max_reject_rate
        if not refused:
            rows = ((shard, self._rows(day, shard, old, new)) for shard in range(self.store.shards))
            self.store.publish(day, rows, new)
        touched = frozenset(self.taken.keys() & (old.parts.keys() | new.keys()))
        return Published(day, sum(self.staging.counts(day).values()), rate, refused, touched)

    def _parts(self, day: int, old: Day) -> dict[str, Part]:
        """Who the day will be made of, in the order of their names."""
        parts = {name: part for name, part in old.parts.items() if name not in self.taken}
        for name, rows in self.staging.counts(day).items():
            parts[name] = Part(rows, 0)
        for name, outcome in self.taken.items():
            if rejected := outcome.days.get(day, 0):
                parts[name] = Part(parts[name].rows if name in parts else 0, rejected)
        return dict(sorted(parts.items()))

    def _rows(self, day: int, shard: int, old: Day, new: dict[str, Part]) -> pl.DataFrame:
        """A shard's rows: the old ones of the files that this run did not take in, and the staged ones."""
        codes = {name: code for code, name in enumerate(new)}
        stays = {code: codes[name] for code, name in enumerate(old.parts) if name not in self.taken}
        staged = self.staging.rows(day, shard)
        frames = [rows for _, rows in staged]
        parts = [np.repeat(codes[part], len(rows)) for part, rows in staged]
        if stays:
            kept = self.store.read(day, shard).filter(pl.col("part").is_in(list(stays)))
            frames.append(kept.drop("part"))
            parts.append(kept["part"].replace_strict(stays).to_numpy())
        if not frames:
            return pl.DataFrame(schema=SCHEMA)
        return pl.concat(frames).with_columns(pl.Series("part", np.concatenate(parts), pl.UInt32))
