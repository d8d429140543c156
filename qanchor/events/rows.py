"""Rows of a log to events: who, when, which text, which value; and the rows that are refused, with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from qanchor.config import Source
from qanchor.errors import ConfigError
from qanchor.events import times
from qanchor.events.profiles import DAY
from qanchor.events.sources import Batch
from qanchor.events.texts import TextTable
from qanchor.events.verbalise import Template, blank, cells, is_raw_float, looks_numeric, number

_ID = "\x1fid"
"""A name that no log's column has."""


@dataclass(frozen=True)
class Reject:
    """A refused row. `day` (since 1970-01-01) is None when the row does not say when it was."""

    row: int
    reason: str
    column: str | None
    day: int | None
    content: Any


@dataclass(frozen=True)
class _Utterance:
    """One event that a row makes: how it is worded, and what number stays beside it."""

    text: Template
    category: Template
    value: str | None

    @property
    def printed(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.text.printed + self.category.printed))

    @property
    def bands(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.text.bands + self.category.bands))


@dataclass(frozen=True)
class _Check:
    reason: str
    column: str
    fails: pl.Series


class Parser:
    """Reads the batches of one file as one source of the config says.

    Raises:
        ConfigError: a template cannot be read or would print a raw number; `features` with `value` or `category`.
    """

    def __init__(self, source: Source, modality: int, latest: int, texts: TextTable):
        self._source = source
        self._modality = modality
        self._latest = latest
        self._texts = texts
        self._template = _utterance(source)
        self._features: dict[str, _Utterance] = {}
        self._seen: set[str] = set()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the file that are read."""
        said = self._template
        words = (*said.printed, *said.bands, *filter(None, [said.value])) if said else self._source.features
        return tuple(dict.fromkeys((self._source.user, self._source.time, *words)))

    def parse(self, batch: Batch) -> tuple[pl.DataFrame, list[Reject]]:
        """Events (user_id String, time Int64 seconds, modality UInt8, text UInt64, value Float32), and rejects."""
        rows = batch.rows
        self._refuse_raw_floats(rows)
        self._name_features(rows)
        user = user_ids(rows[self._source.user])
        time = times.seconds(rows[self._source.time], self._source.time_format)
        checks = list(self._checks(rows, user, time))
        first = _first_failure(checks, len(rows))
        good = pl.Series(first < 0)
        events = self._events(rows.filter(good), user.filter(good), time.filter(good))
        broken = [Reject(row.number, row.reason, None, None, row.content) for row in batch.broken]
        return events, broken + _rejects(batch, checks, first, time, self._latest)

    def _checks(self, rows: pl.DataFrame, user: pl.Series, time: pl.Series) -> Iterator[_Check]:
        """In the order in which a row's first failure names it."""
        source = self._source
        yield _Check("no user", source.user, blank(rows[source.user]))
        yield _Check("wrong type", source.user, user.is_null())
        yield _Check("no time", source.time, blank(rows[source.time]))
        yield _Check("time not understood", source.time, time.is_null())
        yield _Check("time out of range", source.time, ~_in_range(time, self._latest))
        for name in dict.fromkeys(self._template.printed + self._template.bands) if self._template else ():
            yield _Check("template column missing", name, blank(rows[name]))
        for name in self._number_columns():
            yield _Check("wrong type", name, number(rows[name]).is_null() & ~blank(rows[name]))

    def _number_columns(self) -> Iterator[str]:
        said = self._template
        for utterance in [said] if said else self._features.values():
            yield from utterance.bands
            if utterance.value is not None:
                yield utterance.value

    def _events(self, rows: pl.DataFrame, user: pl.Series, time: pl.Series) -> pl.DataFrame:
        frame = rows.with_columns(user.alias(f"{_ID}.user"), time.alias(f"{_ID}.time"))
        if self._template is not None:
            return self._speak(frame, self._template)
        spoken = [
            self._speak(frame.filter(~blank(frame[name])), utterance) for name, utterance in self._features.items()
        ]
        return pl.concat(spoken) if spoken else self._speak(frame.clear(), _Utterance(Template(()), Template(()), None))

    def _speak(self, rows: pl.DataFrame, utterance: _Utterance) -> pl.DataFrame:
        value = number(rows[utterance.value]) if utterance.value else pl.Series([np.nan]).new_from_index(0, len(rows))
        return pl.DataFrame(
            {
                "user_id": rows[f"{_ID}.user"],
                "time": rows[f"{_ID}.time"],
                "modality": pl.Series([self._modality], dtype=pl.UInt8).new_from_index(0, len(rows)),
                "text": self._text_ids(rows, utterance),
                # adding 0.0 makes -0.0 and 0.0 the same bytes
                "value": value.fill_null(np.nan).cast(pl.Float32) + 0.0,
            }
        )

    def _text_ids(self, rows: pl.DataFrame, utterance: _Utterance) -> pl.Series:
        """Words are made for the distinct combinations of what the templates print only, then joined back."""
        said = cells(rows, (utterance.text, utterance.category))
        distinct = said.unique() if said.width else pl.DataFrame({_ID: [0]})
        words = distinct.select(text=utterance.text.expression(), category=utterance.category.expression())
        ids = self._texts.ids(self._source.modality, words["category"], words["text"])
        if not said.width:
            return ids.new_from_index(0, len(rows))
        known = distinct.with_columns(ids.alias(_ID))
        return said.join(known, on=said.columns, how="left", maintain_order="left")[_ID]

    def _refuse_raw_floats(self, rows: pl.DataFrame) -> None:
        """A typed column shows itself in any batch; a text column is judged by the first batch that fills it."""
        for name in self._template.printed if self._template else ():
            if name not in self._seen and is_raw_float(rows[name]):
                raise ConfigError(
                    f"modality `{self._source.modality}`: the template prints {{{name}}}, a raw number such as "
                    f"{rows[name].drop_nulls()[0]}; write {{{name}:band}}, or drop it and set `value: {name}`"
                )
            if rows[name].dtype == pl.String and not blank(rows[name]).all():
                self._seen.add(name)

    def _name_features(self, rows: pl.DataFrame) -> None:
        """A feature is a number or a word for the whole file, decided by the first batch that fills it."""
        for name in self._source.features:
            if name not in self._features and not blank(rows[name]).all():
                label = name.replace("_", " ")
                if looks_numeric(rows[name]):
                    self._features[name] = _Utterance(Template.words(label), Template.words(name), name)
                else:
                    text = Template(((f"{label}: ", name, False),))
                    self._features[name] = _Utterance(text, Template.words(name), None)


def _utterance(source: Source) -> _Utterance | None:
    """None for a source of `features`, whose utterances depend on what the columns hold."""
    if source.text is None:
        for key in ("value", "category"):
            if getattr(source, key) is not None:
                raise ConfigError(f"modality `{source.modality}`: `{key}` does not go with `features`; leave it out")
        return None
    category = Template.words(source.modality) if source.category is None else Template.parse(source.category)
    return _Utterance(Template.parse(source.text), category, source.value)


def user_ids(column: pl.Series) -> pl.Series:
    """Ids as text; whole floats (integers that lost their type to a null) as integers; null where there is none."""
    if column.dtype.is_float():
        whole = column.set(~((column == column.floor()) & (column.abs() < 2**53)).fill_null(False), None)
        return whole.cast(pl.Int64).cast(pl.String)
    text = column.cast(pl.String, strict=False)
    return text.set(blank(text), None)


def _in_range(time: pl.Series, latest: int) -> pl.Series:
    return time.is_between(times.EARLIEST, latest).fill_null(False)


def _first_failure(checks: list[_Check], rows: int) -> npt.NDArray[np.int64]:
    """[rows] index of the first check that fails, -1 where none does."""
    first = np.full(rows, -1)
    for index, check in reversed(list(enumerate(checks))):
        first[check.fails.to_numpy()] = index
    return first


def _rejects(
    batch: Batch, checks: list[_Check], first: npt.NDArray[np.int64], time: pl.Series, latest: int
) -> list[Reject]:
    bad = np.flatnonzero(first >= 0)
    dated = _in_range(time, latest)
    return [
        Reject(
            row=int(batch.numbers[row]),
            reason=checks[first[row]].reason,
            column=checks[first[row]].column,
            day=time[row] // DAY if dated[row] else None,
            content=content,
        )
        for row, content in zip(bad.tolist(), batch.rows[bad].to_dicts() if len(bad) else [], strict=True)
    ]
