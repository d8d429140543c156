from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest
from events_world import bills, content, project, some_bills, write

from qanchor.errors import ConfigError
from qanchor.events import sources
from qanchor.events.ingest import ingest

ODD = [
    ("用户 1", "2025-02-01 00:00:00", 'said "hi", left', "food", -3.5),
    ("7", "2025-02-01 23:59:59", "two\nlines", "a, b", None),
    ("u", "2025-02-02 12:00:00", "7", "true", 0.1),
    ("u", "2025-02-02 12:00:00", "7", "true", -0.0),
]


def stored(root: Path) -> list[tuple[object, ...]]:
    ingest(project(root), root / "store")
    return content(root / "store")


def test_formats_give_the_same_store(tmp_path: Path) -> None:
    frame = pl.concat([bills(*ODD), some_bills(50)])
    for kind in ("parquet", "csv", "jsonl"):
        write(tmp_path / kind / f"logs/a.{kind}", frame)
    (tmp_path / "gz/logs").mkdir(parents=True)
    (tmp_path / "gz/logs/a.csv.gz").write_bytes(gzip.compress((tmp_path / "csv/logs/a.csv").read_bytes()))
    (tmp_path / "bom/logs").mkdir(parents=True)
    (tmp_path / "bom/logs/a.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "csv/logs/a.csv").read_bytes())
    expected = stored(tmp_path / "parquet")
    assert len(expected) == 54
    for kind in ("csv", "jsonl", "gz", "bom"):
        assert stored(tmp_path / kind) == expected


def test_batches_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = some_bills(1_000)
    for kind in ("parquet", "csv", "jsonl"):
        write(tmp_path / kind / f"logs/a.{kind}", frame)
    expected = stored(tmp_path / "parquet")
    monkeypatch.setattr(sources, "BATCH_ROWS", 77)
    monkeypatch.setattr(sources, "BLOCK_BYTES", 2_000)
    for kind in ("parquet", "csv", "jsonl"):
        (tmp_path / kind / "store/ingested.json").unlink(missing_ok=True)
        assert stored(tmp_path / kind) == expected


def test_row_numbers_survive_blocks_and_ragged_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BLOCK_BYTES", 500)
    path = tmp_path / "a.csv"
    lines = ["n,text", *(f'{n},"a\nb"' if n % 7 else f"{n}" for n in range(1, 1_001))]
    path.write_text("\n".join(lines) + "\n")
    batches = list(sources.read(path, "csv", ["n", "text"]))
    assert len(batches) > 5
    assert all(batch.rows["n"].cast(pl.Int64).to_list() == batch.numbers.tolist() for batch in batches)
    broken = [row for batch in batches for row in batch.broken]
    assert [row.number for row in broken] == [int(row.content) for row in broken] == list(range(7, 1_001, 7))


def test_json_types_that_differ_from_row_to_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"a": 1, "b": {"c": 2}}\n{"a": "x", "b": null}\n{"a": null}\n{"a": 123456789012345678901234567890}\n'
    )
    (batch,) = sources.read(path, "jsonl", ["a", "b"])
    assert batch.rows["a"].to_list() == ["1", "x", None, "123456789012345678901234567890"]
    assert batch.rows["b"].to_list() == ['{"c": 2}', None, None, None]


def test_column_that_occurs_twice(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,a\n1,2\n")
    with pytest.raises(sources.FileRefusedError, match="column `a` occurs twice"):
        list(sources.read(tmp_path / "a.csv", "csv", ["a"]))


def test_format_by_ending() -> None:
    assert sources.format_of(Path("x.CSV.gz"), "auto") == "csv"
    assert sources.format_of(Path("x.log"), "jsonl") == "jsonl"
    with pytest.raises(ConfigError, match=r"known endings are \.parquet"):
        sources.format_of(Path("x.log"), "auto")
