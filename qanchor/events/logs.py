"""A team's log files as they lie: which belong together, what their columns are, when their events happened."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from qanchor.errors import DataError
from qanchor.events import columns, sources, times
from qanchor.events.columns import Guess, Reading
from qanchor.events.profiles import DAY

SAMPLE_ROWS = 100_000
WHOLE_BYTES = 1 << 28
"""Of larger text files only the first rows tell the range of time; of Parquet files always the whole time column."""
STRAY = 0.001
"""This share of the events at either end may be typing errors and does not stretch the range of time."""
GENERIC = {"", "data", "log", "logs", "part", "export", "event", "events", "dump", "table", "file", "raw", "chunk"}
"""File names that say nothing: the folder's name is taken instead."""
LABELS = {"user_id", "as_of", "label"}
MILLISECONDS = (10**12, 10**13)


@dataclass(frozen=True)
class Log:
    """Files of one kind: they lie in one folder, have one kind of name and the same columns."""

    paths: list[Path]
    modality: str
    user: Guess
    time: Guess
    reading: Reading
    """The rest of the columns."""
    refused: float
    """Share of the sample's rows that have no user or no time."""
    tabular: bool
    """One row a user, of what the user is rather than does."""
    first: int
    """Days since 1970 of the first and the last event, strays aside."""
    last: int


def find(paths: Sequence[Path]) -> tuple[list[Log], list[Path]]:
    """The logs among these files, and the files of labels; a folder stands for the files in it.

    Raises:
        DataError: no file, an unreadable one, or one without a user or a time column.
    """
    kinds: dict[tuple[Path, str, tuple[str, ...]], list[Path]] = {}
    labels = []
    for path in _files(paths):
        header = tuple(_header(path))
        if set(header) == LABELS:  # read as events they would give the answers away
            labels.append(path)
        else:
            kinds.setdefault((path.parent, _stem(path), header), []).append(path)
    logs: dict[str, Log] = {}
    for (folder, stem, _), together in kinds.items():
        modality = above = slug(folder.resolve().name)
        if stem not in GENERIC or not above:
            modality = slug(stem) or "log"
        while modality in logs:
            modality = f"{above}_{modality}"
        logs[modality] = _log(together, modality)
    if not logs:
        raise DataError(f"only labels in {', '.join(map(str, labels))}: name the logs of what users did too")
    return list(logs.values()), labels


def slug(name: str) -> str:
    return re.sub(r"\W+", "_", name.lower()).strip("_")


def _files(paths: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += [
                p for p in sorted(path.rglob("*")) if p.is_file() and p.name.lower().endswith(tuple(sources.ENDINGS))
            ]
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"no file {path}: name log files (.csv, .parquet, .jsonl) or a folder of them")
    if not found:
        where = ", ".join(map(str, paths))
        raise DataError(f"no log files in {where or 'an empty list'}: expected {', '.join(sources.ENDINGS)}")
    return list(dict.fromkeys(found))


def _stem(path: Path) -> str:
    """The name without ending, dates and numbers: bills-2024-01.csv.gz -> bills."""
    return re.sub(r"[\W_\d]+$", "", re.sub(r"[\W_]*\d[\d\W_]*", "_", path.name.split(".")[0].lower())).strip("_")


def _header(path: Path) -> list[str]:
    kind = sources.format_of(path, "auto")
    try:
        if kind == "parquet":
            return list(pq.read_schema(path).names)
        opener = gzip.open if path.name.endswith(".gz") else open
        with opener(path, "rt", encoding="utf-8-sig", newline="") as text:
            if kind == "jsonl":
                return list(dict.fromkeys(name for line in islice(text, 1_000) for name in _keys(line)))
            head = text.read(1 << 16)
    except (OSError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"cannot read {path} ({reason}): expected {kind} in UTF-8; convert it") from None
    _check_separator(path, head)
    return next(csv.reader([head.split("\n", 1)[0].rstrip("\r")]), [])


def _keys(line: str) -> list[str]:
    """The keys of one JSON line; none of a broken one, which ingest will refuse."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return []
    return list(row) if isinstance(row, dict) else []


def _check_separator(path: Path, head: str) -> None:
    try:
        found = csv.Sniffer().sniff(head.split("\n", 1)[0], ",;\t|").delimiter
    except csv.Error:
        return
    if found != ",":
        raise DataError(f"{path} separates its columns by {found!r}, expected commas: convert it to CSV or Parquet")


def _log(paths: list[Path], modality: str) -> Log:
    path, names = paths[0], _header(paths[0])
    rows = next(_batches(path, names), pl.DataFrame()).head(SAMPLE_ROWS)
    if rows.is_empty():
        raise DataError(f"{path} has no rows: name a file with some")
    reading = columns.read(rows)
    if reading.user is None:
        needed = (
            "a user's id: a column named like user_id, customer or member_no, or an id that comes back on several rows"
        )
        raise DataError(f"{path}: none of the columns {', '.join(names)} looks like {needed}; rename yours")
    if reading.time is None:
        late = [name for name in names if _milliseconds(rows[name])]
        mend = f"`{late[0]}` looks like milliseconds: divide it by 1,000" if late else "rename yours or write ISO 8601"
        raise DataError(f"{path}: none of the columns {', '.join(names)} looks like the event's time; {mend}")
    users = rows[reading.user.column].drop_nulls()
    named = columns.words(modality) & {"profile", "profiles", "demographics", "people", *columns.USERS}
    tabular = bool(named) and users.n_unique() == len(users) and len(reading.texts + reading.numbers) > 1
    timed = columns.plausible(times.seconds(rows[reading.time.column], reading.time_format)).fill_null(False)
    refused = 1 - int((timed & rows[reading.user.column].is_not_null()).sum()) / len(rows)
    first, last = _days(paths, reading.time.column, reading.time_format)
    return Log(paths, modality, reading.user, reading.time, reading, refused, tabular, first, last)


def _milliseconds(column: pl.Series) -> bool:
    flat = column.dtype == pl.String or column.dtype.is_numeric()
    numbers = column.cast(pl.Float64, strict=False).drop_nulls() if flat else column.clear()
    return len(numbers) > 0 and numbers.is_between(*MILLISECONDS).all()


def _batches(path: Path, names: list[str]) -> Iterator[pl.DataFrame]:
    try:
        for batch in sources.read(path, sources.format_of(path, "auto"), names):
            yield batch.rows
    except sources.FileRefusedError as error:
        raise DataError(f"cannot read {path}: {error}") from None


def _days(paths: list[Path], time: str, time_format: str | None) -> tuple[int, int]:
    events: Counter[int] = Counter()
    for path in paths:
        whole = path.suffix == ".parquet" or path.stat().st_size < WHOLE_BYTES
        for rows in islice(_batches(path, [time]), None if whole else 1):
            seconds = times.seconds(rows[time], time_format)
            days = (seconds.filter(columns.plausible(seconds)) // DAY).value_counts()
            events.update(dict(days.iter_rows()))
    ordered = sorted(events)
    reached = list(accumulate(events[day] for day in ordered))
    first = next(day for day, n in zip(ordered, reached, strict=True) if n > STRAY * reached[-1])
    last = next(day for day, n in zip(ordered, reached, strict=True) if n >= (1 - STRAY) * reached[-1])
    return first, last
