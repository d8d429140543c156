"""Days on disk (D2): `events/day=YYYY-MM-DD/` with one Parquet file a shard and a `day.json` that names them.

A file's name carries a hash of its content, and a reader opens only what `day.json` names: replacing that one small
file replaces the whole day, for all shards at once.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from qanchor import storage
from qanchor.errors import DataError
from qanchor.events import atomic
from qanchor.storage import Place

FORMAT = 1
SORT = ("user_id", "second", "modality", "text", "value", "part")
"""The canonical order of a file's rows: equal logs give equal bytes."""
SCHEMA = {
    "user_id": pl.String,
    "second": pl.Int32,
    "modality": pl.UInt8,
    "text": pl.UInt64,
    "value": pl.Float32,
    "part": pl.UInt32,
}
"""`second` counts from the day's midnight (UTC); `part` indexes the sorted part names of the day's `day.json`."""


@dataclass(frozen=True)
class Part:
    """What one source file gave to one day."""

    rows: int
    rejected: int


@dataclass(frozen=True)
class Day:
    """One `day.json`."""

    files: dict[int, str]
    """Name of each non-empty shard's file."""
    parts: dict[str, Part]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts.values())

    @property
    def reject_rate(self) -> float:
        rejected = sum(part.rejected for part in self.parts.values())
        return rejected / max(1, rejected + self.rows)


@dataclass(frozen=True)
class Partitions:
    """The folder of a store, or its prefix in a bucket: `store.json`, `texts.parquet`, `events/day=.../`."""

    root: Place
    shards: int
    modalities: tuple[str, ...]

    @classmethod
    def open(cls, root: Place) -> Partitions:
        """Raises DataError when there is no store at `root`, or one of another format."""
        data = _manifest(root)
        if data is None:
            raise DataError(f"no event store at {root}: run `qanchor ingest` first")
        if data.get("format") != FORMAT:
            raise DataError(f"{root} has store format {data.get('format')}, expected {FORMAT}: delete it, ingest again")
        return cls(root, data["shards"], tuple(data["modalities"]))

    @classmethod
    def prepare(cls, root: Place, shards: int, modalities: tuple[str, ...]) -> Partitions:
        """The store at `root`, or one to be founded there. Raises DataError when the one there is cut differently."""
        return cls(root, shards, modalities) if _manifest(root) is None else cls.open(root).expect(shards, modalities)

    def found(self) -> None:
        """Write `store.json` if it is missing: after this, shards and modalities are fixed."""
        if _manifest(self.root) is None:
            data = {"format": FORMAT, "shards": self.shards, "modalities": list(self.modalities)}
            atomic.write_json(self.root / "store.json", data)

    def expect(self, shards: int, modalities: tuple[str, ...]) -> Partitions:
        """Itself. Raises DataError when the config has another number of shards or other modalities."""
        for name, have, want in (("shards", self.shards, shards), ("modalities", self.modalities, modalities)):
            if have != want:
                raise DataError(
                    f"the store at {self.root} has {name} {have}, the config has {want}: "
                    f"put the config back, or delete the store and ingest again"
                )
        return self

    @property
    def texts(self) -> Place:
        return self.root / "texts.parquet"

    def folder(self, day: int) -> Place:
        return self.root / "events" / f"day={date_of(day)}"

    def days(self) -> list[int]:
        """Published days since 1970-01-01, in order."""
        found = (self.root / "events").glob("day=*/day.json")
        return sorted(day_of(dt.date.fromisoformat(path.parent.name[4:])) for path in found)

    def read_days(self, days: Sequence[int]) -> list[Day]:
        """What is published of each day; an empty Day where nothing is."""
        return [_day(data) for data in storage.contents([self.folder(day) / "day.json" for day in days])]

    def day(self, day: int) -> Day:
        return self.read_days([day])[0]

    def publish(self, day: int, shards: Iterable[tuple[int, pl.DataFrame]], parts: dict[str, Part]) -> None:
        """Replace a day, atomically for its readers: (shard, rows of SCHEMA), and who they came from."""
        folder = self.folder(day)
        switch = folder / "day.json"
        files = {shard: _write(folder, shard, rows) for shard, rows in shards if len(rows)}
        if files:
            described = {name: {"rows": part.rows, "rejected": part.rejected} for name, part in parts.items()}
            data = {"day": folder.name[4:], "rows": Day({}, parts).rows, "files": files, "parts": described}
            atomic.write_json(switch, data)
        else:
            atomic.remove(switch)
        _sweep(folder, {switch.name, *files.values()})

    def paths(self, days: Sequence[int], shard: int) -> list[Place]:
        """The files of a shard, without the days on which it has no rows."""
        published = zip(days, self.read_days(days), strict=True)
        return [self.folder(day) / its.files[shard] for day, its in published if shard in its.files]

    def path(self, day: int, shard: int) -> Place | None:
        """The file of a day's shard, None when it has no rows."""
        return next(iter(self.paths([day], shard)), None)

    def read(self, day: int, shard: int) -> pl.DataFrame:
        """The rows of one shard (SCHEMA), in canonical order; for the one writer, under whom no file vanishes."""
        path = self.path(day, shard)
        return (
            pl.DataFrame(schema=SCHEMA)
            if path is None
            else pl.read_parquet(storage.whole(path), hive_partitioning=False)
        )


def day_of(date: dt.date) -> int:
    """Days since 1970-01-01."""
    return (date - dt.date(1970, 1, 1)).days


def date_of(day: int) -> dt.date:
    return dt.date(1970, 1, 1) + dt.timedelta(days=day)


def _manifest(root: Place) -> Any:
    """`store.json`, None where there is no store."""
    (data,) = storage.contents([root / "store.json"])
    return None if data is None else json.loads(data)


def _day(data: bytes | None) -> Day:
    if data is None:
        return Day({}, {})
    described = json.loads(data)
    files = {int(shard): name for shard, name in described["files"].items()}
    return Day(files, {name: Part(**part) for name, part in described["parts"].items()})


def _write(folder: Place, shard: int, rows: pl.DataFrame) -> str:
    buffer = io.BytesIO()
    rows = rows.select(list(SCHEMA)).sort(SORT)
    rows.write_parquet(buffer, compression="zstd", compression_level=1, statistics=False)
    data = buffer.getvalue()
    name = f"shard={shard}.{hashlib.blake2b(data, digest_size=8).hexdigest()}.parquet"
    if not (folder / name).exists():
        atomic.write(folder / name, data, sync_folder=False)
    return name


def _sweep(folder: Place, keep: set[str]) -> None:
    """Remove what `day.json` no longer names, and what a killed run left."""
    if not folder.exists():
        return
    for path in folder.iterdir():
        if path.name not in keep:
            atomic.remove(path)
    # a prefix of a bucket is gone with its last object
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()
