"""A column of times, as logs have them, to whole seconds since 1970-01-01 UTC."""

from __future__ import annotations

import datetime as dt

import polars as pl

from qanchor.errors import ConfigError

EARLIEST = int(dt.datetime(1990, 1, 1, tzinfo=dt.UTC).timestamp())
"""Events before 1990 are refused: they are zeros and typing errors, not logs."""

_ISO = (
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f%#z",
    "%Y-%m-%dT%H:%M:%S%.f%#z",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%d",
)
"""The commonest first: each is tried only on what the ones before it did not understand."""


def latest(now: dt.datetime) -> int:
    """Events more than a day after now are refused; a day is what a wrong time zone may shift."""
    return int((now + dt.timedelta(days=1)).timestamp())


def seconds(column: pl.Series, time_format: str | None = None) -> pl.Series:
    """Int64 seconds, rounded down; null where the column is null or not understood.

    Timestamps with a zone are converted to UTC, those without are taken as UTC; dates are midnight; numbers are epoch
    seconds; text is ISO 8601 or epoch seconds, or else what `time_format` (strptime) says.

    Raises:
        ConfigError: `time_format` is not a strptime format.
    """
    if time_format is not None:
        return _strptime(column.cast(pl.String).str.strip_chars(), time_format)
    if column.dtype.is_integer():
        return column.cast(pl.Int64, strict=False)
    if column.dtype.is_numeric():
        return _whole(column.cast(pl.Float64))
    if column.dtype in (pl.Date, pl.Datetime):
        return _since_1970(column.cast(pl.Datetime("us")) if column.dtype == pl.Date else column)
    return _text_seconds(column.cast(pl.String, strict=False).str.strip_chars())


def _text_seconds(column: pl.Series) -> pl.Series:
    result = pl.Series(column.name, [None], dtype=pl.Int64).new_from_index(0, len(column))
    for how in (*_ISO, None):
        left = (result.is_null() & column.is_not_null()).arg_true()
        if left.is_empty():
            break
        text = column.gather(left)
        found = _strptime(text, how) if how else _whole(text.cast(pl.Float64, strict=False))
        result = found if len(left) == len(result) else result.scatter(left, found)
    return result


def _strptime(text: pl.Series, how: str) -> pl.Series:
    zone = "UTC" if any(directive in how for directive in ("%z", "%#z", "%:z")) else None
    try:
        return _since_1970(text.str.strptime(pl.Datetime("us", zone), how, strict=False))
    except pl.exceptions.ComputeError as error:
        raise ConfigError(f"`time_format: {how}` cannot be read: {str(error).splitlines()[0]}") from None


def _since_1970(column: pl.Series) -> pl.Series:
    return column.dt.epoch("us") // 1_000_000


def _whole(number: pl.Series) -> pl.Series:
    sane = number.is_finite() & (number.abs() < 1e15)
    return number.set(~sane.fill_null(False), None).floor().cast(pl.Int64)
