"""The store as it is asked: profiles and prediction windows of any (user, as_of), read from the day partitions."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from qanchor import storage
from qanchor.config import Config
from qanchor.errors import DataError
from qanchor.events import texts
from qanchor.events.partitions import Partitions, date_of, day_of
from qanchor.events.profiles import DAY, Profiles, Texts
from qanchor.events.shards import shard_of
from qanchor.storage import Place

Ints = npt.NDArray[np.int64]


class EventStore:
    """Reads a store that `ingest` has written; safe beside a running ingest, which each day shows as old or new."""

    def __init__(self, root: Place, modalities: tuple[str, ...], lookback_days: dict[str, int]):
        """Raises DataError when there is no store at `root` or it has other modalities."""
        self._partitions = Partitions.open(root)
        self._partitions.expect(self._partitions.shards, modalities)
        self._lookback = np.array([lookback_days[name] * DAY for name in modalities], np.int64)
        self._texts: tuple[texts.Version, Texts] | None = None

    @classmethod
    def open(cls, config: Config, root: Place) -> EventStore:
        """Raises DataError when there is no store at `root`, or the config cuts it into other shards or modalities."""
        Partitions.open(root).expect(config.shards, config.modality_names)
        names = config.modality_names
        return cls(root, names, {name: config.lookback_days(name) for name in names})

    @property
    def modalities(self) -> tuple[str, ...]:
        return self._partitions.modalities

    def days(self) -> list[dt.date]:
        """Days with events, in order."""
        return [date_of(day) for day in self._partitions.days()]

    def texts(self) -> Texts:
        """The text table, read again only when an ingest has replaced it."""
        version = texts.version(self._partitions.texts)
        if self._texts is None or self._texts[0] != version:
            self._texts = (version, texts.load(self._partitions.texts))
        return self._texts[1]

    @property
    def shards(self) -> int:
        return self._partitions.shards

    def files(self, shard: int, as_of: dt.date) -> dict[str, str]:
        """Day -> name (it carries a hash of the content) of every file that a shard's profiles at `as_of` come from."""
        end = day_of(as_of)
        first = end - int(self._lookback.max()) // DAY
        days = [day for day in self._partitions.days() if first <= day < end]
        return {path.parent.name.removeprefix("day="): path.name for path in self._partitions.paths(days, shard)}

    def population(self, as_of: dt.date, min_events: int = 1, shard: int | None = None) -> list[str]:
        """Users with at least `min_events` events in the lookback windows that end at midnight of `as_of`, sorted.

        Of all shards, or of one.
        """
        moment = day_of(as_of) * DAY
        start = self._by_modality(moment - self._lookback)
        users: list[str] = []
        for own in range(self._partitions.shards) if shard is None else (shard,):
            counts = self._read(
                own,
                int(moment - self._lookback.max()),
                moment,
                lambda rows: rows.filter(pl.col("time") >= start).group_by("user_id").len(),
            )
            users += counts.filter(pl.col("len") >= min_events)["user_id"].to_list()
        return sorted(users)

    def moved(self, shard: int, before: dt.date, after: dt.date, ages: Sequence[int] = ()) -> list[str]:
        """Users of a shard whose windows differ between two as_of days: an event came in, left at the other end, or has
        reached one of these `ages` (days).

        Sorted. `before` may not be later than `after`.
        """
        old, new = day_of(before) * DAY, day_of(after) * DAY
        time, lookback = pl.col("time"), self._by_modality(self._lookback)
        # where the days lie further apart than a window is long, what was never inside of either does not count
        came = (time >= old) & (time >= new - lookback) & (time < new)
        left = (time >= old - lookback) & (time < new - lookback) & (time < old)
        users: set[str] = set()
        first = old - int(self._lookback.max())
        spans = [(came, old, new), (left, first, min(old, new - int(self._lookback.min())))]
        for age in ages:
            start, end = old - age * DAY, new - age * DAY
            # of a modality with a shorter window, what is so old has left before
            aged = (time > start) & (time <= end) & (time >= new - lookback) & (time < old)
            spans.append((aged, start, end + 1))
        for inside, start, end in spans:
            users |= set(self._read(shard, start, end, partial(_users_of, inside))["user_id"])
        return sorted(users)

    def _by_modality(self, values: Ints) -> pl.Expr:
        """Of each row, the one of `values` [M] that its modality has."""
        return pl.col("modality").replace_strict(
            list(range(len(values))), [int(value) for value in values], return_dtype=pl.Int64
        )

    def profiles(self, keys: pl.DataFrame) -> Profiles:
        """Events of the lookback windows, strictly before `as_of` (D3).

        Args:
            keys: [N] user_id String, as_of Datetime("us") UTC, rounded down to the second.

        Returns:
            N profiles: row n answers row n of `keys`; a user without events has an empty one.

        Raises:
            DataError: `keys` lacks a column or holds a null.
        """
        return self._windows(keys, -self._lookback, 0)

    def futures(self, keys: pl.DataFrame, predict_days: int) -> Profiles:
        """Events of the prediction windows [as_of, as_of + predict_days). Like `profiles` otherwise."""
        return self._windows(keys, np.zeros(len(self.modalities), np.int64), predict_days * DAY)

    def _windows(self, keys: pl.DataFrame, starts: Ints, end: int) -> Profiles:
        """Events from as_of + starts [M, by modality] (included) to as_of + end (excluded), in seconds.

        Shard by shard, so that memory is bounded by the result and one shard's share of the logs.
        """
        users, as_of = _checked(keys)
        counts = np.zeros(len(users), np.int64)
        found = []
        shards = shard_of(users, self._partitions.shards)
        for shard in np.unique(shards):
            asked = np.flatnonzero(shards == shard)
            key, events = self._shard_windows(int(shard), asked, users, as_of, starts, end)
            counts += np.bincount(key, minlength=len(users))
            found.append((key, events))
        offsets = np.concatenate([[0], np.cumsum(counts)])
        columns = _in_order(found, offsets)
        # read after the events: whatever text they point to was published before them
        table = self.texts()
        return Profiles(
            user_ids=users.to_numpy().astype(object),
            as_of=as_of,
            offsets=offsets,
            time=columns["time"],
            modality=columns["modality"],
            text=np.searchsorted(table.ids, columns["text"]).astype(np.int32),
            value=columns["value"],
            modalities=self.modalities,
            texts=table,
        )

    def _shard_windows(
        self, shard: int, asked: Ints, users: pl.Series, as_of: Ints, starts: Ints, end: int
    ) -> tuple[Ints, pl.DataFrame]:
        """(key, event) pairs of one shard: [P] rows of `keys`, ascending, and [P] events, in canonical order each."""
        distinct = users.gather(asked).unique().sort()
        codes = pl.DataFrame({"user_id": distinct, "user": pl.int_range(len(distinct), dtype=pl.UInt32, eager=True)})
        widest = starts.min()
        # files are in canonical order and so are the days, so that a stable sort by user is all that is left to do
        events = self._read(
            shard,
            int(as_of[asked].min() + widest),
            int(as_of[asked].max() + end),
            lambda rows: rows.join(codes.lazy(), on="user_id", maintain_order="left").select("user", *_EVENT),
        ).sort("user", maintain_order=True)
        # one sorted number per event: 34 bits hold any time that we accept
        place = events["user"].to_numpy().astype(np.int64) << 34 | events["time"].to_numpy()
        code = distinct.search_sorted(users.gather(asked)).to_numpy().astype(np.int64) << 34
        low = np.searchsorted(place, code | np.maximum(as_of[asked] + widest, 0))
        high = np.searchsorted(place, code | np.maximum(as_of[asked] + end, 0))
        key, event = np.repeat(asked, high - low), _ranges(low, high)
        # the widest window was taken; now each modality's own
        first = as_of[key] + starts[events["modality"].to_numpy()[event]]
        inside = events["time"].to_numpy()[event] >= first
        return key[inside], events.drop("user")[event[inside]]

    def _read(self, shard: int, start: int, end: int, query: Callable[[pl.LazyFrame], pl.LazyFrame]) -> pl.DataFrame:
        """A query over one shard's rows (user_id, time, modality, text, value; by day) with start <= time < end."""
        paths = self._paths(shard, start, end)
        while True:
            try:
                return query(_scan(paths, start, end)).collect(engine="streaming")
            except (OSError, pl.exceptions.PolarsError) as error:
                # an ingest that replaced a day under us has named new files; otherwise the store is damaged
                before, paths = paths, self._paths(shard, start, end)
                if paths == before:
                    root = self._partitions.root
                    raise DataError(f"{root} cannot be read ({storage.said(error)}): ingest it again") from error

    def _paths(self, shard: int, start: int, end: int) -> list[Place]:
        wanted = [day for day in self._partitions.days() if start < (day + 1) * DAY and day * DAY < end]
        return self._partitions.paths(wanted, shard)


_EVENT = {"time": pl.Int64, "modality": pl.UInt8, "text": pl.UInt64, "value": pl.Float32}


def _users_of(inside: pl.Expr, rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.filter(inside).select("user_id").unique()


def _scan(paths: list[Place], start: int, end: int) -> pl.LazyFrame:
    if not paths:
        return pl.LazyFrame(schema={"user_id": pl.String, **_EVENT})
    rows = storage.scan(paths)
    midnight = pl.col("day").cast(pl.Date).cast(pl.Int32).cast(pl.Int64) * DAY
    rows = rows.select("user_id", (midnight + pl.col("second")).alias("time"), "modality", "text", "value")
    return rows.filter((pl.col("time") >= start) & (pl.col("time") < end))


def _checked(keys: pl.DataFrame) -> tuple[pl.Series, Ints]:
    for name in ("user_id", "as_of"):
        if name not in keys.columns or keys[name].has_nulls():
            raise DataError(f"keys need a column `{name}` without nulls, got the columns {keys.columns}")
    seconds = keys["as_of"].cast(pl.Datetime("us")).dt.epoch("us") // 1_000_000
    return keys["user_id"].cast(pl.String), seconds.to_numpy()


def _ranges(low: Ints, high: Ints) -> Ints:
    """low[0]..high[0] - 1, low[1]..high[1] - 1, ... one after another."""
    counts = high - low
    return np.repeat(low - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())


def _in_order(found: list[tuple[Ints, pl.DataFrame]], offsets: Ints) -> dict[str, npt.NDArray[Any]]:
    """Every shard's events at their keys' offsets. Frames are let go as they are copied."""
    columns = {name: np.empty(offsets[-1], dtype) for name, dtype in _NUMPY.items()}
    while found:
        key, events = found.pop()
        starts = np.searchsorted(key, key)
        place = offsets[key] + np.arange(len(key)) - starts
        for name, column in columns.items():
            column[place] = events[name].to_numpy()
    return columns


_NUMPY = {"time": np.int64, "modality": np.uint8, "text": np.uint64, "value": np.float32}
