"""The files of the wallet company: a folder a source, a Parquet file a month, each source with its own column names.

A chunk of users adds a row group, sorted by time, to every month's file, so nothing is held but one chunk.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qanchor.datasets.wallet_events import DAY, Events
from qanchor.datasets.wallet_people import People, Streams
from qanchor.datasets.wallet_world import SOURCES, START, Ints, World

FOLDERS = (*SOURCES, "tabular")
EPOCH = (START - dt.date(1970, 1, 1)).days * DAY
COLUMNS = {
    "bill": {"user_id": "user", "pay_time": "us", "merchant": "first", "mcc": "category"}
    | {"amount": "value", "channel": "channel"},
    "transfer": {"uid": "user", "ts": "s", "kind": "category", "direction": "first", "payee": "second"}
    | {"amount": "value", "channel": "channel"},
    "mini": {"uid": "user", "ts": "s", "program": "first", "page": "second", "industry": "category"},
    "spm": {"user_id": "user", "visit_time": "ms", "path": "first", "site": "category", "stay_seconds": "value"},
    "app": {"uid": "user", "event_time": "us", "app_name": "first", "app_category": "category", "action": "second"},
    "search": {"user_id": "user", "ts": "s", "query": "first", "vertical": "category"},
}
"""By source: its columns, and which field of an event each holds (times: epoch seconds or timestamps in ms or us)."""
CHANNELS = {"en": ["balance", "bank card", "credit line", "scan code"], "zh": ["余额", "银行卡", "信用支付", "扫码"]}


def user_ids(people: People) -> list[str]:
    return [f"w{number:07d}" for number in people.number]


class Logs:
    """Open month files of a simulation of `days` days under `out`."""

    def __init__(self, out: Path, world: World, days: int) -> None:
        self._out = out
        self._world = world
        self._months = _months(days)
        self._files: dict[Path, Any] = {}

    def __enter__(self) -> Logs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()

    def write(self, people: People, events: Events, stream: Streams) -> None:
        """Append one chunk to every source."""
        ids = pa.array(user_ids(people))
        order = np.argsort(events.second, kind="stable")
        source = self._world.source[events.topic[order]]
        channel = _channels(self._world, stream("channel").random(len(events.user)))
        for number, name in enumerate(SOURCES):
            rows = order[source == number]
            fields = self._fields(ids, events, rows, channel)
            table = pa.table({column: fields[field] for column, field in COLUMNS[name].items()})
            self._append(name, table, events.second[rows] // DAY)
        for first in self._months.values():
            self._append("tabular", snapshot(self._world, people, ids, first, stream), np.full(len(people), first))

    def _fields(self, ids: pa.Array, events: Events, rows: Ints, channel: pa.Array) -> dict[str, pa.Array]:
        second = events.second[rows] + EPOCH
        first, second_part, category = (column.take(pa.array(events.text[rows])) for column in self._world.columns)
        return {
            "user": ids.take(pa.array(events.user[rows])),
            "s": pa.array(second),
            "ms": pa.array(second * 1_000).cast(pa.timestamp("ms")),
            "us": pa.array(second * 1_000_000).cast(pa.timestamp("us")),
            "first": first,
            "second": second_part,
            "category": category,
            "value": pa.array(events.value[rows]),
            "channel": channel.take(pa.array(rows)),
        }

    def _append(self, name: str, table: pa.Table, day: Ints) -> None:
        """Write the rows of each month to its file; rows are in time order."""
        starts = np.searchsorted(day, [*self._months.values(), np.iinfo(np.int64).max])
        for month, start, stop in zip(self._months, starts[:-1], starts[1:], strict=True):
            if stop > start:
                path = self._out / name / f"{month}.parquet"
                if path not in self._files:
                    self._files[path] = pq.ParquetWriter(path, table.schema, compression="zstd")
                self._files[path].write_table(table.slice(start, stop - start))


def snapshot(world: World, people: People, ids: pa.Array, day: int, stream: Streams) -> pa.Table:
    """The tabular features of all users on the first day of a month: bands are words, the rest numbers."""
    latents = people.level[:, day // 7] + people.drift[:, day // 7]
    noise = stream(f"tabular{day}").standard_normal((len(people), 3))
    age, income, *_ = people.traits.T
    credit, wealth, fraud, activity = (latents[:, world.latent(n)] for n in ("credit", "wealth", "fraud", "activity"))
    values: dict[str, Any] = {
        "age": np.digitize(35 + 12 * age, [22, 30, 40, 50, 60]),
        "city": np.digitize(people.city[:, day // 7], [2, 6, 11]),
        "income": np.digitize(income + 0.4 * stream("income").standard_normal(len(people)), [-0.8, 0, 0.9]),
        "credit": np.digitize(0.5 * income - 0.6 * credit - 0.3 * fraud + 0.4 * noise[:, 0], [-1.2, -0.4, 0.3, 1.1]),
        "verified": np.digitize(
            0.4 * fraud - 0.3 * activity + stream("verified").standard_normal(len(people)), [0.3, 1.2]
        ),
    }
    columns: dict[str, pa.Array] = {
        world.words(world.book["tabular"][name]): pa.array(world.words(world.book["bands"][name])).take(pa.array(band))
        for name, band in values.items()
    }
    numbers = {
        "tenure": people.tenure + round(day / 30),
        "balance": np.round(np.exp(4.5 + 0.8 * income + 0.8 * wealth - 0.4 * credit + 0.6 * noise[:, 1]), 2),
        "devices": 1 + np.maximum(np.rint(0.3 * fraud + 0.6 * noise[:, 2] - 0.4), 0).astype(int),
    }
    columns |= {world.words(world.book["tabular"][name]): pa.array(number) for name, number in numbers.items()}
    date = pa.array([START + dt.timedelta(days=day)] * len(people), pa.date32())
    return pa.table({"user_id": ids, "snapshot_date": date, **columns})


def _months(days: int) -> dict[str, int]:
    """The simulated months and the day on which each begins."""
    dates = [START + dt.timedelta(days=day) for day in range(days)]
    return {f"{date:%Y-%m}": day for day, date in enumerate(dates) if date.day == 1}


def _channels(world: World, uniform: Any) -> pa.Array:
    return pa.array(CHANNELS[world.language]).take(pa.array(np.searchsorted([0.35, 0.65, 0.85], uniform)))
