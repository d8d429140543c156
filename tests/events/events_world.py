"""Small raw logs, a config over them, and plain readings of a store for the tests of the events room."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import polars as pl

from qanchor.config import Config, parse
from qanchor.events.partitions import Partitions, date_of

BILL = {"user": "user", "time": "time", "modality": "bill", "text": "{shop}", "category": "{kind}", "value": "amount"}
SCHEMA = {"user": pl.String, "time": pl.Datetime("us"), "shop": pl.String, "kind": pl.String, "amount": pl.Float64}
WINDOWS = {"train": ["2025-03-01"], "validation": ["2025-03-01"], "test": ["2025-04-01"]}


def project(root: Path, *sources: dict[str, Any], **settings: Any) -> Config:
    """A config over `root`; without sources, bills in `logs/*`."""
    chosen = list(sources) or [{"path": "logs/*", **BILL}]
    return parse({"name": "test", "sources": chosen, "windows": WINDOWS, "shards": 2, **settings}, root)


def bills(*rows: tuple[Any, ...]) -> pl.DataFrame:
    """(user, time as ISO text, shop, kind, amount) rows."""
    frame = pl.DataFrame(rows, {**SCHEMA, "time": pl.String}, orient="row")
    return frame.with_columns(pl.col("time").str.to_datetime(time_unit="us"))


def some_bills(count: int, first: str = "2025-02-01", days: int = 3) -> pl.DataFrame:
    """`count` bills of five users over a few days, none on the same second."""
    start = dt.datetime.fromisoformat(first)
    return bills(
        *(
            (f"u{n % 5}", str(start + dt.timedelta(seconds=n * days * 86_400 // count)), f"shop {n % 7}", "food", n / 4)
            for n in range(count)
        )
    )


def write(path: Path, frame: pl.DataFrame) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    elif path.suffix == ".csv":
        frame.write_csv(path, datetime_format="%Y-%m-%d %H:%M:%S")
    else:
        text = "".join(json.dumps(row, default=str) + "\n" for row in frame.to_dicts())
        path.write_text(text, encoding="utf-8")
    return path


def content(root: Path) -> list[tuple[Any, ...]]:
    """Every event of a store as (user, time, modality, category, text, value or None), sorted."""
    store = Partitions.open(root)
    table = {row[0]: row[1:] for row in pl.read_parquet(store.texts).rows()}
    events = []
    for day in store.days():
        midnight = dt.datetime.combine(date_of(day), dt.time())
        for shard in range(store.shards):
            for user, second, modality, text, value, _ in store.read(day, shard).rows():
                assert table[text][0] == store.modalities[modality]
                moment = midnight + dt.timedelta(seconds=second)
                events.append((user, moment, *table[text], None if value != value else value))
    return sorted(events, key=lambda event: (*event[:2], repr(event)))


def by_day(root: Path) -> dict[dt.date, list[tuple[Any, ...]]]:
    days: dict[dt.date, list[tuple[Any, ...]]] = {}
    for event in content(root):
        days.setdefault(event[1].date(), []).append(event)
    return days


def fileset(root: Path) -> dict[str, bytes]:
    """The published files of a store with their bytes."""
    paths = [*(root / "events").rglob("*"), root / "texts.parquet", root / "store.json"]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths if path.is_file()}


def rejects(root: Path) -> list[dict[str, Any]]:
    logs = sorted((root / "rejects").rglob("*.jsonl"))
    return [json.loads(line) for log in logs for line in log.read_text().splitlines()]
