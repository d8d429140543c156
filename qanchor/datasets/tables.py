"""Publishers' tables as they come (Parquet, CSV, Stack Exchange XML), and the raw folder that is made of them."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import polars as pl

from qanchor.errors import DataError

Type = type[pl.DataType]

NULLS = ("", "?")
"""What publishers write in CSV where they know nothing; OULAD's newer release has question marks."""
TRUE, FALSE = ("1", "y", "true"), ("0", "n", "false")


@dataclass(frozen=True)
class Table:
    """One table of a publisher: the file names it may have, the columns we read, and where it is to be had."""

    files: tuple[str, ...]
    """Globs inside the data folder; all files of the first glob that matches any are read, one below the other."""
    columns: Mapping[str, Type]
    """Column and the type it must have; text of CSV and XML is parsed to it."""
    origin: str
    """Where to download it, for the error of who has not."""
    optional: tuple[str, ...] = ()
    """Columns that some releases lack; they are then all null."""
    times: tuple[str, ...] = ("%Y-%m-%dT%H:%M:%S%.f",)
    """strptime formats in which the publisher's text files write time; the first that fits a value counts."""

    def read(self, data_dir: Path) -> pl.DataFrame:
        """The columns of `columns`, in that order, typed; rows as the files have them.

        Raises:
            DataError: no such file, an unreadable one, a missing column, or a value that is not of its type.
        """
        return pl.concat([self._typed(path, self._raw(path)) for path in self._find(data_dir)])

    def _find(self, data_dir: Path) -> list[Path]:
        for pattern in self.files:
            if found := sorted(data_dir.glob(pattern)):
                return found
        names = " or ".join(self.files)
        raise DataError(f"no {names} in {data_dir}: download {self.origin} and name its folder with --data-dir")

    def _raw(self, path: Path) -> pl.DataFrame:
        try:
            if path.suffix == ".parquet":
                return pl.read_parquet(path)
            if path.suffix == ".xml":
                return _xml_rows(path, list(self.columns))
            # councils and universities still publish Latin-1: a lost pound sign must not cost the row
            return pl.read_csv(path, infer_schema=False, encoding="utf8-lossy")
        except (pl.exceptions.PolarsError, ElementTree.ParseError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"cannot read {path} ({reason}): expected the publisher's file, download it again"
            ) from None

    def _typed(self, path: Path, rows: pl.DataFrame) -> pl.DataFrame:
        found = []
        for name, wanted in self.columns.items():
            if name in rows.columns:
                found.append(self._cast(path, rows[name], wanted))
            elif name in self.optional:
                found.append(pl.Series(name, [None], dtype=wanted).new_from_index(0, len(rows)))
            else:
                raise DataError(f"{path} has no column `{name}` among {', '.join(rows.columns)}: see {self.origin}")
        return pl.DataFrame(found)

    def _cast(self, path: Path, column: pl.Series, wanted: Type) -> pl.Series:
        if column.dtype == pl.String:
            column = column.str.strip_chars()
            column = column.set(column.is_in(NULLS).fill_null(False), None)
        cast = column if column.dtype == wanted else self._parse(column, wanted)
        wrong = cast.is_null() & column.is_not_null()
        if wrong.any():
            value = column.filter(wrong)[0]
            raise DataError(f"{path}: column `{column.name}` holds {value!r}, expected {wanted.__name__}")
        return cast

    def _parse(self, column: pl.Series, wanted: Type) -> pl.Series:
        """`column` as `wanted`, null where that cannot be."""
        if column.dtype != pl.String:
            return column.cast(wanted, strict=False)
        if wanted == pl.Int64:  # spreadsheets turn a column of ids with gaps into 17850.0
            return column.cast(pl.Float64, strict=False).cast(pl.Int64, strict=False)
        if wanted == pl.Boolean:
            words = column.str.to_lowercase()
            return words.is_in(TRUE).set(~words.is_in(TRUE + FALSE).fill_null(False), None)
        if wanted in (pl.Date, pl.Datetime):
            values = pl.DataFrame([column]).select(
                pl.coalesce(
                    pl.col(column.name).str.strptime(pl.Datetime("us"), how, strict=False) for how in self.times
                )
            )[column.name]
            return values.cast(wanted)
        return column.cast(wanted, strict=False)


def _xml_rows(path: Path, columns: list[str]) -> pl.DataFrame:
    """The attributes of every `<row .../>` of a Stack Exchange dump, as text; an absent attribute is null.

    The file is streamed: a dump may be larger than memory, the wanted columns are not.
    """
    found: dict[str, list[str | None]] = {name: [] for name in columns}
    parts = ElementTree.iterparse(path, events=("start", "end"))
    _, root = next(parts)
    for event, element in parts:
        if event == "end" and element.tag == "row":
            for name, values in found.items():
                values.append(element.get(name))
            root.clear()
    return pl.DataFrame(found, schema=dict.fromkeys(columns, pl.String))


def publish(raw: Path, frames: Mapping[str, pl.DataFrame], config: str) -> Path:
    """Write each frame as `raw/NAME.parquet` and `config` as `raw/qanchor.yaml`; returns the YAML's path.

    Rows are put in the order of their columns, so that equal data give equal bytes; a file that would not change is
    not touched, so that nothing downstream takes it for new.
    """
    for name, frame in frames.items():
        buffer = io.BytesIO()
        frame.sort(frame.columns, nulls_last=True).write_parquet(buffer)
        _replace(raw / f"{name}.parquet", buffer.getvalue())
    path = raw / "qanchor.yaml"
    _replace(path, config.encode())
    return path


def _replace(path: Path, data: bytes) -> None:
    if path.exists() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".tmp")
    fresh.write_bytes(data)
    os.replace(fresh, path)
