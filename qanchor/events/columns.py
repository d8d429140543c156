"""What the columns of a log probably are: user, time, texts, category, value. Guesses by name and by content.

Nothing here is certain: every guess carries the columns that came close, every column that is not used its reason.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from qanchor.events import times

USER = (
    "user customer client member subscriber buyer payer account card student patient person visitor uid cust 用户 会员"
)
USERS = frozenset(word + s for word in USER.split() for s in ("", "s"))
TIME = "timestamp datetime time date ts created creation occurred event at day when dt 时间 日期"
LATE = "updated update modified birth dob expiry expires due end ended last closed edit access deleted delivered"
OTHER_IDS = (
    "order transaction txn invoice event session product item merchant store row device request line parent post"
)
NOT_IDS = "name agent type status count country age level segment score group tier"
ID = "id ids uuid guid hash key token ip email mail phone no number code last4 index"
CATEGORY = "category kind type class channel department section genre topic mcc event action 类别 类型"
VALUE = "amount price value total cost sum revenue paid spend fee balance duration seconds score amt 金额"
NOT_VALUES = "id lat lon latitude longitude year month day hour zip postcode code index row version number no"

NOT_WORDS = "id uuid guid hash token ip email mail phone file filename"

FORMATS = tuple(
    day + clock
    for day in (
        "%d/%m/%Y",
        "%m/%d/%Y",
        "%d.%m.%Y",
        "%d-%m-%Y",
        "%Y/%m/%d",
        "%Y%m%d",
        "%d-%b-%Y",
        "%d %b %Y",
        "%b %d, %Y",
    )
    for clock in ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
)

FULL = 0.999
"""A column is filled when so many rows have a value: a row without one would be refused."""
MAX_TEXTS = 4
MAX_CATEGORIES, MAX_NAMED_CATEGORIES = 50, 500
"""Fewer different values make a column a category; more may, if it is named like one."""


@dataclass(frozen=True)
class Guess:
    """A column, and the next best."""

    column: str
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """What the columns of one log are taken for."""

    user: Guess | None
    time: Guess | None
    time_format: str | None
    other_formats: tuple[str, ...]
    texts: tuple[str, ...]
    """Columns of words, at most `MAX_TEXTS`."""
    numbers: tuple[str, ...]
    category: Guess | None
    value: Guess | None
    left_out: dict[str, str]
    """Column and why no part of the event is made of it."""


def read(rows: pl.DataFrame) -> Reading:
    """Guess from a sample of rows, text columns as CSV has them included; what is not found is None or empty."""
    formats = {name: found for name in rows.columns if (found := _time_formats(rows[name])) is not None}
    time = _best({name: _time_score(rows[name]) for name in formats})
    user = _best({name: _user_score(rows[name]) for name in rows.columns if name not in formats})
    used = {guess.column for guess in (time, user) if guess}
    left_out = {name: "a time" for name in formats if name not in used}
    numbers: list[str] = []
    texts: list[str] = []
    for name in rows.columns:
        if name in used or name in left_out:
            continue
        if reason := _unfit(rows[name]):
            left_out[name] = reason
        else:
            (numbers if _is_number(rows[name]) else texts).append(name)
    value = _best({name: _value_score(rows[name], len(numbers)) for name in numbers})
    left_out |= {name: "a number" for name in numbers if not value or name != value.column}
    left_out |= dict.fromkeys(texts[MAX_TEXTS:], "four columns are enough for a start")
    texts = texts[:MAX_TEXTS]
    category = _best({name: _category_score(rows[name]) for name in texts})
    chosen = formats[time.column] if time else [None]
    return Reading(
        user, time, chosen[0], tuple(filter(None, chosen[1:])), tuple(texts), tuple(numbers), category, value, left_out
    )


def words(name: str) -> set[str]:
    """`CustomerID` -> customer, id; `card_last4` -> card, last4."""
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return {word for word in re.split(r"[\W_]+", split.lower()) if word}


def _says(name: str, vocabulary: str) -> int | None:
    """Rank in the vocabulary of the first word that the column's name has; None: it has none."""
    found = words(name)
    joined = "".join(re.split(r"[\W_]+", name.lower()))
    ranks = (
        n for n, word in enumerate(vocabulary.split()) if word in found or joined in (word, word + "id", "id" + word)
    )
    return next(ranks, None)


def _best(scores: dict[str, float]) -> Guess | None:
    """The highest above zero, and every other above zero; the first column wins a tie."""
    ranked = sorted((name for name in scores if scores[name] > 0), key=lambda name: -scores[name])
    return Guess(ranked[0], tuple(ranked[1:])) if ranked else None


def _filled(column: pl.Series) -> pl.Series:
    """The values that say something."""
    if column.dtype == pl.String:
        column = column.str.strip_chars()
        column = column.set((column == "").fill_null(False), None)
    return column.drop_nulls()


def _share(column: pl.Series, holds: Callable[[pl.Series], pl.Series]) -> float:
    """Share of the filled values of which `holds`."""
    values = _filled(column)
    return float(holds(values).fill_null(False).mean() or 0.0) if len(values) else 0.0  # type: ignore[arg-type]


def _is_number(column: pl.Series) -> bool:
    if column.dtype == pl.String:
        return _share(column, lambda v: v.cast(pl.Float64, strict=False).is_finite()) > FULL
    return column.dtype.is_numeric()


def _user_score(column: pl.Series) -> float:
    values, named = _filled(column), _says(column.name, USER)
    whole = column.dtype == pl.String or column.dtype.is_integer()
    if not whole or values.n_unique() < 2 or len(values) < len(column) / 2 or words(column.name) & {*NOT_IDS.split()}:
        return 0.0
    is_id = bool(words(column.name) & {*ID.split()})
    if named is not None:
        return 3.0 + is_id - 0.01 * named
    # any other id, if it comes back: rows of their own have an id that never does
    repeats = len(values) / values.n_unique() > 1.5 and values.n_unique() > 1
    return 1.0 if repeats and is_id and _says(column.name, OTHER_IDS) is None else 0.0


def _time_formats(column: pl.Series) -> list[str | None] | None:
    """strptime formats that read the column, the likeliest first, [None] for what needs none; None: not a time."""
    named = _says(column.name, TIME) is not None
    if column.dtype in (pl.Date, pl.Datetime):
        return [None]
    if column.dtype != pl.String and not (column.dtype.is_numeric() and named):
        return None
    if _is_number(column) and not named:
        return None  # ids look like epoch seconds
    if _share(column, lambda v: plausible(times.seconds(v))) > FULL - 0.05:
        return [None]
    if column.dtype.is_float():
        return None
    sample = _filled(column).cast(pl.String).head(5_000)
    fits = [(found, how) for how in FORMATS if (found := _parsed(sample, how)) is not None]
    # 03/04/2024 reads both ways: the true one gives the shorter span
    return [how for _, how in sorted(fits, key=lambda fit: fit[0])] or None


def _parsed(sample: pl.Series, how: str) -> int | None:
    """The span in seconds of the sample read by a format, None where that does not read it."""
    seconds = times.seconds(sample, how)
    readable = plausible(seconds).fill_null(False)
    if not len(sample) or readable.mean() < FULL - 0.05:  # type: ignore[operator]
        return None
    good = seconds.filter(readable)
    return int(good.max()) - int(good.min())  # type: ignore[arg-type]


def plausible(seconds: pl.Series) -> pl.Series:
    """Which of these seconds since 1970 can be an event's."""
    return seconds.is_between(times.EARLIEST, times.latest(dt.datetime.now(dt.UTC)))


def _time_score(column: pl.Series) -> float:
    named = _says(column.name, TIME)
    score = 1.0 + (0.0 if named is None else 2.0 - 0.01 * named)
    score -= 2.5 * bool(words(column.name) & {*LATE.split()})
    score -= 5.0 * (1 - len(_filled(column)) / max(len(column), 1))
    return max(score, 0.1)


def _value_score(column: pl.Series, candidates: int) -> float:
    if words(column.name) & {*NOT_VALUES.split()}:
        return 0.0
    named = _says(column.name, VALUE)
    if named is not None:
        return 2.0 - 0.01 * named
    whole = column.dtype.is_integer() or _share(column, lambda v: ~v.cast(pl.String).str.contains(r"\.")) == 1.0
    return 1.0 if candidates == 1 and not whole else 0.0


def _category_score(column: pl.Series) -> float:
    distinct, named = column.n_unique(), _says(column.name, CATEGORY)
    if not 2 <= distinct <= (MAX_CATEGORIES if named is None else MAX_NAMED_CATEGORIES):
        return 0.0
    return 1.0 + distinct / 1000 + (0.0 if named is None else 2.0 - 0.01 * named)


def _unfit(column: pl.Series) -> str | None:
    """Why a column is no part of an event; None: it may be."""
    values = _filled(column)
    if column.dtype.is_nested() or column.dtype == pl.Binary or set(column.name) & set("{}:"):
        return "cannot be put into a template"
    if not len(values):
        return "empty"
    empty = 1 - len(values) / len(column)
    if empty > 1 - FULL:
        return f"{max(empty, 0.01):.0%} of its rows are empty and would be refused"
    if _is_number(column):
        return "an id" if words(column.name) & {"id", "uuid", "guid"} else None
    if values.n_unique() == 1:
        return "always the same"
    if column.dtype != pl.String:
        return None
    if words(column.name) & {*NOT_WORDS.split()}:
        return "an id"
    if _share(values, lambda v: v.str.contains(r"@\w+\.|^[0-9a-fA-F-]{16,}$|^https?://")) > 0.5:
        return "an id, an address or a link"
    if _share(values, lambda v: v.str.contains(r"^[^\w\s]?\s?-?\d[\d.,\s]*\s?\W?$")) > 0.5:
        return "a number written as text"
    if values.n_unique() > max(50, 0.5 * len(values)) and _share(values, lambda v: v.str.contains(r"\w\s+\w")) < 0.5:
        return "nearly every row has its own"
    return None
