"""Log files as a stream of batches: Parquet, CSV (also gzipped) and JSON lines, memory independent of their size."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from qanchor import storage
from qanchor.errors import ConfigError
from qanchor.storage import Place

BATCH_ROWS = 1 << 18
BLOCK_BYTES = 1 << 22
ENDINGS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonl.gz": "jsonl",
}


class FileRefusedError(Exception):
    """A file of which no row can be trusted; carries the reason's name and what was found. Ingest catches it."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class BrokenRow:
    """A row that could not even be split into columns."""

    number: int
    reason: str
    content: str


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of one file."""

    rows: pl.DataFrame
    """The columns that were asked for; all text in CSV."""
    numbers: npt.NDArray[np.int64]
    """1-based number of each row in its file: data rows in Parquet and CSV, lines in JSON."""
    broken: list[BrokenRow] = field(default_factory=list)


def format_of(path: Place, declared: str) -> str:
    """`parquet`, `csv` or `jsonl`. Raises ConfigError when the ending says nothing and nothing is declared."""
    if declared != "auto":
        return declared
    for ending, name in ENDINGS.items():
        if path.name.lower().endswith(ending):
            return name
    raise ConfigError(f"cannot tell the format of {path}: known endings are {', '.join(ENDINGS)}; or set `format:`")


def read(path: Place, file_format: str, columns: Sequence[str]) -> Iterator[Batch]:
    """The rows of one file, in order, in batches.

    Raises:
        FileRefusedError: the file cannot be read to its end, is not UTF-8, or lacks one of `columns`. Batches that were
            handed out before are then void.
    """
    readers = {"parquet": _parquet, "csv": _csv, "jsonl": _jsonl}
    try:
        yield from readers[file_format](path, list(columns))
    except UnicodeDecodeError as error:
        raise FileRefusedError("broken file", f"not UTF-8 ({error.reason}); convert it with iconv") from None
    except (pa.ArrowException, OSError, EOFError, zlib.error, csv.Error) as error:
        hint = "; convert it to UTF-8 with iconv" if "UTF8" in str(error) else ""
        raise FileRefusedError("broken file", " ".join(str(error).split())[:300] + hint) from None


def _check_columns(wanted: Sequence[str], found: Sequence[str]) -> None:
    if not found:
        raise FileRefusedError("broken file", f"nothing in it; expected the columns {', '.join(wanted)}")
    for name in wanted:
        if name not in found:
            close = difflib.get_close_matches(name, found, n=1, cutoff=0.5)
            hint = f"did you mean `{close[0]}`?" if close else f"found {', '.join(map(repr, found))}"
            raise FileRefusedError("missing column", f"no column `{name}`; {hint}")
        if list(found).count(name) > 1:
            raise FileRefusedError("missing column", f"column `{name}` occurs twice; rename one")


def _frame(batch: pa.RecordBatch) -> pl.DataFrame:
    frame = pl.from_arrow(batch)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _parquet(path: Place, columns: list[str]) -> Iterator[Batch]:
    with (
        storage.opened(path) as raw,
        pq.ParquetFile(raw, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True) as file,
    ):
        _check_columns(columns, file.schema_arrow.names)
        start = 1
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns):
            yield Batch(_frame(batch), np.arange(start, start + len(batch)))
            start += len(batch)


def _csv(path: Place, columns: list[str]) -> Iterator[Batch]:
    _check_columns(columns, _csv_header(path))
    skipped: list[Any] = []

    def skip(row: Any) -> str:
        skipped.append(row)
        return "skip"

    with (
        storage.opened(path) as raw,
        pa.input_stream(raw, compression="gzip" if path.name.endswith(".gz") else None) as stream,
    ):
        reader = arrow_csv.open_csv(
            stream,
            # row numbers are only given in serial reading
            read_options=arrow_csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=columns,
                column_types=dict.fromkeys(columns, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
        start = reported = 0
        for batch in reader:
            numbers = _numbers(start, len(batch), [row.number - 1 for row in skipped])
            broken = [_ragged(row) for row in skipped[reported:]]
            reported = len(skipped)
            start += len(batch)
            yield Batch(_frame(batch), numbers, broken)
        if skipped[reported:]:
            empty = pl.DataFrame(schema=dict.fromkeys(columns, pl.String))
            yield Batch(empty, np.empty(0, np.int64), [_ragged(row) for row in skipped[reported:]])


def _csv_header(path: Place) -> list[str]:
    with _open(path) as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        return next(csv.reader(text), [])


def _ragged(row: Any) -> BrokenRow:
    detail = f"ragged row: {row.actual_columns} columns, expected {row.expected_columns}"
    return BrokenRow(row.number - 1, detail.split(":")[0], row.text)


def _numbers(start: int, count: int, skipped: list[int]) -> npt.NDArray[np.int64]:
    """Row numbers of the good rows start..start + count (0-based among the good), given the skipped rows' numbers."""
    good = np.arange(start, start + count)
    good_before = np.array(skipped, np.int64) - np.arange(1, len(skipped) + 1)
    return good + 1 + np.searchsorted(good_before, good, side="right")


def _jsonl(path: Place, columns: list[str]) -> Iterator[Batch]:
    with _open(path) as file:
        lines = enumerate((line.decode() for line in file), start=1)
        first = True
        while chunk := list(itertools.islice(lines, BATCH_ROWS)):
            objects, numbers, broken = _objects(chunk)
            if first:
                _check_columns(columns, list(dict.fromkeys(key for item in objects for key in item)))
                first = False
            rows = pl.DataFrame([series(name, [item.get(name) for item in objects]) for name in columns])
            yield Batch(rows, np.array(numbers, np.int64), broken)


def _objects(lines: list[tuple[int, str]]) -> tuple[list[dict[str, Any]], list[int], list[BrokenRow]]:
    objects, numbers, broken = [], [], []
    for number, line in lines:
        if not (line := line.lstrip("\ufeff").strip()):
            continue
        try:
            item = json.loads(line)
            if "\\ud" in line:
                # half a surrogate pair, such as a cut emoji, is JSON but no text
                json.dumps(item, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            item = None
        if isinstance(item, dict):
            objects.append(item)
            numbers.append(number)
        else:
            broken.append(BrokenRow(number, "broken line", line))
    return objects, numbers, broken


def series(name: str, values: list[Any]) -> pl.Series:
    """A typed column; what JSON mixes (numbers with words, objects) becomes text."""
    types = {type(value) for value in values} - {type(None)}
    if types <= {int} and all(value is None or abs(value) < 2**63 for value in values):
        return pl.Series(name, values, dtype=pl.Int64)
    if types <= {int, float}:
        return pl.Series(name, values, dtype=pl.Float64, strict=False)
    if types == {bool}:
        return pl.Series(name, values, dtype=pl.Boolean)
    texts = [v if v is None or isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values]
    return pl.Series(name, texts, dtype=pl.String)


@contextmanager
def _open(path: Place) -> Iterator[io.BufferedReader]:
    with path.open("rb") as raw:
        stream = gzip.GzipFile(fileobj=raw) if path.name.endswith(".gz") else raw
        yield io.BufferedReader(cast(io.RawIOBase, stream))
