"""`results.json` and the console's table."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from qanchor.errors import DataError
from qanchor.evaluation.results import Results
from qanchor.evaluation.table import best, gap, number, table
from qanchor.probe.linear import Score


def some_results() -> Results:
    missing = Score(math.nan, math.nan, math.nan, math.nan, 0, 50, "0 of 50 test rows with a label are positive")
    rows = {
        "pay": {"counts": Score(0.7, 0.3, 0.01, 0.02, 20, 50), "tuned": Score(0.8125, 0.5, 0.001, 0.02, 20, 50)},
        "fly": {"counts": missing, "tuned": missing},
        "read": {"counts": Score(0.9, 0.7, 0.01, 0.02, 10, 50), "tuned": Score(0.6, 0.2, 0.001, 0.02, 10, 50)},
    }
    return Results("toy", rows, {"test rows": 50}, {"ingest": 1.5}, "qanchor demo", "a machine", "2025-01-01")


def test_json_has_the_promised_shape_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "results.json"
    results = some_results()
    results.save(path)
    found = json.loads(path.read_text(), parse_constant=lambda token: pytest.fail(f"{token} is not JSON"))
    assert found["data"] == "toy"
    assert found["scenarios"]["pay"]["tuned"]["auc"] == 0.8125
    assert found["scenarios"]["fly"]["tuned"]["ks"] is None
    assert found["average"]["counts"] == {"auc": pytest.approx(0.8), "ks": pytest.approx(0.5)}
    assert found["seconds"] == {"ingest": 1.5}
    assert repr(Results.load(path)) == repr(results)  # repr, since NaN does not equal itself
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"average": {}, "scenarios": {"a": {"b": {"c": 1}}}}'])
def test_refuses_another_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"is not a results\.json"):
        Results.load(path)


def test_best_and_gap_know_the_oracle() -> None:
    values = {"counts": 0.8, "base": math.nan, "tuned": 0.7, "oracle": 0.9}
    assert best(values) == "counts"
    assert gap(values) == pytest.approx(0.2)
    assert best({"base": math.nan}) is None
    assert gap({"counts": 0.5}) is None


def test_numbers_read_as_in_the_field() -> None:
    assert [number(0.8421), number(1.0), number(math.nan), number(0.031, sign=True), number(-0.2)] == [
        ".842",
        "1.000",
        "–",
        "+.031",
        "-.200",
    ]


def test_table_fits_a_terminal_and_shows_all() -> None:
    console = Console(width=80, file=io.StringIO())
    console.print(table(some_results()))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert sum(line.startswith("average") for line in lines) == 2
    assert any(line.split() == ["pay", ".700", "±.010", ".812", "±.001"] for line in lines)
    assert any(line.startswith("fly: 0 of 50") for line in lines)
