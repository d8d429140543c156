"""Rows to words: templates over columns, with money and counts printed as bands, never raw (D1)."""

from __future__ import annotations

import itertools
import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from qanchor.errors import ConfigError

EDGES = np.sort(np.concatenate([digit * 10.0 ** np.arange(12) for digit in (1, 2, 5)]))
"""1, 2, 5, 10, ... 5e11: a band reaches from one edge to just under the next."""


def _band_names() -> list[str]:
    """Names of the bands from the most negative to the most positive; see `band`."""
    edges = [str(int(edge)) for edge in EDGES]
    pairs = list(itertools.pairwise(edges))
    up = ["under 1", *(f"{low}-{high}" for low, high in pairs), f"{edges[-1]} and over"]
    down = ["-1 to 0", *(f"-{high} to -{low}" for low, high in pairs), f"-{edges[-1]} and under"]
    return down[::-1] + up


BANDS = pl.Series(_band_names())


def band(numbers: pl.Series) -> pl.Series:
    """1-2-5 bands as text: 37.5 is "20-50", 20 is "20-50", 0.3 is "under 1", -30 is "-50 to -20"; null stays null."""
    values = numbers.cast(pl.Float64).fill_null(0).to_numpy()
    steps = np.searchsorted(EDGES, np.abs(values), side="right")
    half = len(BANDS) // 2
    names = BANDS.gather(np.where(values < 0, half - 1 - steps, half + steps))
    return names.set(numbers.is_null(), None).alias(numbers.name)


def number(column: pl.Series) -> pl.Series:
    """Float64; null where the cell is empty, is not a finite number, or is too large for 32 bits."""
    if column.dtype == pl.String:
        column = column.str.strip_chars()
    values = column.cast(pl.Float64, strict=False)
    return values.set(~(values.abs() <= np.finfo(np.float32).max).fill_null(False), None)


def blank(column: pl.Series) -> pl.Series:
    """Where a cell says nothing: null, empty text, NaN."""
    if column.dtype == pl.String:
        # nothing that starts with a visible character is empty: the slow look is for the few that do not
        suspect = (column < "!").any()
        return column.is_null() | (column.str.strip_chars() == "").fill_null(False) if suspect else column.is_null()
    return column.is_null() | (column.is_nan().fill_null(False) if column.dtype.is_float() else False)


@dataclass(frozen=True)
class Template:
    """`"{category} at {merchant}, {amount:band}"`, parsed."""

    pieces: tuple[tuple[str, str | None, bool], ...]
    """(words before, column or None, as a band) in order."""

    @classmethod
    def parse(cls, text: str) -> Template:
        """Raises ConfigError when a brace is not closed, a column has no name, or a format is not `:band`."""
        try:
            parsed = list(string.Formatter().parse(text))
        except ValueError as error:
            raise ConfigError(f"the template {text!r} cannot be read: {error}; write columns as {{column}}") from None
        for _, column, form, conversion in parsed:
            if column == "" or form not in (None, "", "band") or conversion:
                raise ConfigError(
                    f"the template {text!r} holds {column!r}:{form!r}; write {{column}} or {{column:band}}"
                )
        return cls(tuple((words, column, form == "band") for words, column, form, _ in parsed))

    @classmethod
    def words(cls, text: str) -> Template:
        return cls(((text, None, False),))

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column for _, column, _ in self.pieces if column is not None))

    @property
    def bands(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column for _, column, banded in self.pieces if column is not None and banded))

    @property
    def printed(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column for _, column, banded in self.pieces if column is not None and not banded))

    def expression(self) -> pl.Expr:
        """The text, over the frame that `cells` makes."""
        parts = []
        for words, column, banded in self.pieces:
            parts += [pl.lit(words)] if words else []
            parts += [pl.col(_cell(column, banded))] if column is not None else []
        return pl.concat_str(parts) if parts else pl.lit("")


def cells(rows: pl.DataFrame, templates: Sequence[Template]) -> pl.DataFrame:
    """What the templates print of each row, as text columns: few distinct rows, whatever the numbers are."""
    printed = dict.fromkeys(column for template in templates for column in template.printed)
    bands = dict.fromkeys(column for template in templates for column in template.bands)
    columns = [rows[name].cast(pl.String, strict=False).alias(_cell(name, False)) for name in printed]
    columns += [band(number(rows[name])).alias(_cell(name, True)) for name in bands]
    return pl.DataFrame(columns)


def _cell(column: str, banded: bool) -> str:
    return f"{column}:band" if banded else column


def is_raw_float(column: pl.Series) -> bool:
    """Whether printing this column would print measured numbers: a float type, or text that is all fractions."""
    if column.dtype.is_float() or column.dtype.is_decimal():
        return True
    if column.dtype != pl.String:
        return False
    filled = column.filter(~blank(column))
    return looks_numeric(column) and bool(filled.str.contains(r"\d\.\d|[eE]").any())


def looks_numeric(column: pl.Series) -> bool:
    """Whether a column is of numbers; a text column is when every filled cell is a number, and one is filled."""
    if column.dtype != pl.String:
        return column.dtype.is_numeric()
    filled = column.filter(~blank(column))
    return not filled.is_empty() and not number(filled).has_nulls()
