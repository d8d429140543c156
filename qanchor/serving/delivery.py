"""Appended events as log files that the config's own sources read.

`bill/*.parquet` gets `bill/inbox-2026-01-31T15.parquet`: one file a source and hour of arrival, replaced as a whole
while that hour lasts, so that ingesting it twice changes nothing. A row was verbalised by the same source when it came,
so that a refresh reads what was visible before it.
"""

from __future__ import annotations

import datetime as dt
import io
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from qanchor import storage
from qanchor.config import Config, Source
from qanchor.errors import ConfigError
from qanchor.events import atomic, sources, times
from qanchor.events.rows import Parser, user_ids
from qanchor.events.texts import TextTable, text_id
from qanchor.serving.inbox import Appended, Arrival, Said, hour_name
from qanchor.serving.live import Word

ENDINGS = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


class _Heard(TextTable):
    """Keeps the words of what is said, and reads no file."""

    def __init__(self) -> None:
        self.words: dict[int, Word] = {}

    def ids(self, modality: str, category: pl.Series, text: pl.Series) -> pl.Series:
        said = [(modality, *pair) for pair in zip(category.to_list(), text.to_list(), strict=True)]
        ids = [text_id(*words) for words in said]
        self.words.update(zip(ids, said, strict=True))
        return pl.Series("text_id", ids, dtype=pl.UInt64)


@dataclass(frozen=True)
class Sent:
    """An event as its sender has it: a row of a source, under an id of its own."""

    id: str
    row: dict[str, object]


def source_named(config: Config, name: str) -> Source:
    """The source whose `path` is `name`, or the only one of the modality `name`.

    Raises:
        ConfigError: there is none, or its logs have no place for another file.
    """
    found = [s for s in config.sources if s.path == name] or [s for s in config.sources if s.modality == name]
    if len(found) != 1:
        known = ", ".join(source.path for source in config.sources)
        what = f"{len(found)} sources have the modality {name!r}, name one" if found else f"no source {name!r}"
        raise ConfigError(f"{what} by its path: {known}")
    file_of(found[0], "hour")
    return found[0]


def file_of(source: Source, hour: str) -> str:
    """The name of a log file that the source's pattern matches. Raises ConfigError when there can be none."""
    folder, slash, name = source.path.rpartition("/")
    ending = next((ending for ending in ENDINGS if name.endswith(ending)), None)
    if name.count("*") != 1 or any(mark in folder + name.replace("*", "") for mark in "*?[") or ending is None:
        raise ConfigError(
            f"events cannot be appended to `path: {source.path}`: expected FOLDER/*.parquet, *.csv or *.jsonl, so that "
            "the service can add files of its own"
        )
    return folder + slash + name.replace("*", f"inbox-{hour}")


def read(config: Config, source: Source, sent: Sequence[Sent]) -> list[Arrival | str]:
    """Each event as the source's template makes it, or why an ingest would refuse it.

    Raises:
        ConfigError: the template would print a raw number, or the user's id.
    """
    heard, latest = _Heard(), times.latest(dt.datetime.now(dt.UTC))
    parser = Parser(source, config.modality_names.index(source.modality), latest, heard)
    if parser.columns.count(source.user) > 1 or source.user in (source.text or "") + (source.category or ""):
        raise ConfigError(f"`text` of {source.path} prints the user's id: take {{{source.user}}} out of the template")
    rows = pl.DataFrame([sources.series(name, [event.row.get(name) for event in sent]) for name in parser.columns])
    users = user_ids(rows[source.user])
    # the parser carries the user's id along, so it can carry the row's number instead
    numbered = rows.with_columns(pl.Series(source.user, [str(n) for n in range(len(sent))]))
    events, rejects = parser.parse(sources.Batch(numbered, np.arange(len(sent))))
    said: defaultdict[int, list[Said]] = defaultdict(list)
    for n, moment, modality, text, value in events.iter_rows():
        said[int(n)].append((moment, modality, text, math.nan if value is None else value, heard.words[text]))
    reasons = {reject.row: f"{reject.reason}: {reject.column}" for reject in rejects}
    found: list[Arrival | str] = []
    for n, (event, user) in enumerate(zip(sent, users.to_list(), strict=True)):
        if user is None or n in reasons:
            found.append(f"no user: {source.user}" if user is None else reasons[n])
        elif not said[n]:
            found.append("it says nothing: every feature is empty")
        else:
            row = {name: event.row.get(name) for name in parser.columns}
            found.append(Arrival(event.id, source.path, user, row, tuple(said[n])))
    return found


def deliver(config: Config, appended: Appended) -> int:
    """Bring the log files up to date with what has come; how many were written."""
    known, written = {source.path: source for source in config.sources}, 0
    for path, hour in appended.due():
        if path not in known:
            continue
        rows, place = appended.rows(path, hour), storage.place(file_of(known[path], hour_name(hour)), config.root)
        if rows:
            atomic.write(place, _file(rows, place.name))
        else:
            atomic.remove(place)
        appended.delivered(path, hour, len(rows))
        written += 1
    return written


def _file(rows: list[dict[str, object]], name: str) -> bytes:
    frame = pl.DataFrame([sources.series(column, [row.get(column) for row in rows]) for column in rows[0]])
    buffer = io.BytesIO()
    if name.endswith(".parquet"):
        frame.write_parquet(buffer)
    elif name.endswith(".csv"):
        frame.write_csv(buffer)
    else:
        frame.write_ndjson(buffer)
    return buffer.getvalue()
