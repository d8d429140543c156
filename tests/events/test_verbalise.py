from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from events_world import content, project, write
from hypothesis import given
from hypothesis import strategies as st

from qanchor.errors import ConfigError
from qanchor.events.ingest import ingest
from qanchor.events.verbalise import EDGES, Template, band, blank, is_raw_float, number


def test_bands() -> None:
    said = {
        0: "under 1", 0.99: "under 1", 1: "1-2", 1.99: "1-2", 2: "2-5", 20: "20-50", 49.9: "20-50", 1000: "1000-2000",
        -0.5: "-1 to 0", -20: "-50 to -20", -49: "-50 to -20", 9e11: "500000000000 and over",
        -9e11: "-500000000000 and under",
    }  # fmt: skip
    assert dict(zip(said, band(pl.Series(list(said), dtype=pl.Float64)), strict=True)) == said
    assert band(pl.Series([None, 3], dtype=pl.Int8)).to_list() == [None, "2-5"]


@given(st.floats(-4e11, 4e11).filter(lambda value: abs(value) >= 1))
def test_a_number_lies_in_its_band(value: float) -> None:
    (name,) = band(pl.Series([value]))
    low, high = (float(edge) for edge in (name.split(" to ") if " to " in name else name.split("-")))
    assert low <= value <= high
    assert abs(low) in EDGES
    assert abs(high) in EDGES


def test_number_refuses_what_is_none() -> None:
    column = pl.Series(["1", " 2.5 ", "x", "", None, "inf", "nan", "1e40", "-1e3"])
    assert number(column).to_list() == [1.0, 2.5, None, None, None, None, None, None, -1000.0]


def test_blank() -> None:
    assert blank(pl.Series(["a", "", " \t", None, " a"])).to_list() == [False, True, True, True, False]
    assert blank(pl.Series([1.0, float("nan"), None])).to_list() == [False, True, True]
    assert blank(pl.Series([1, None])).to_list() == [False, True]


@pytest.mark.parametrize("text", ["{", "{}", "{a:.2f}", "{a!r}", "a }"])
def test_templates_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ConfigError, match="template"):
        Template.parse(text)


def test_template_with_odd_columns(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"u": [1, 2], "t": [1738400000, 1738400001], "a b": ["x", "y"], "n": [3, 30], "d.e": [True, False]}
    )
    write(tmp_path / "logs/a.parquet", frame)
    source = {"path": "logs/*", "user": "u", "time": "t", "modality": "m", "text": "{{{a b}}} {n} {n:band} {d.e}!"}
    ingest(project(tmp_path, {**source, "category": "c{n:band}"}), tmp_path / "store")
    found = [(event[0], *event[2:]) for event in content(tmp_path / "store")]
    assert found == [("1", "m", "c2-5", "{x} 3 2-5 true!", None), ("2", "m", "c20-50", "{y} 30 20-50 false!", None)]


def test_raw_floats() -> None:
    assert is_raw_float(pl.Series([1.0]))
    assert is_raw_float(pl.Series(["12.50", "", "3"]))
    assert not is_raw_float(pl.Series(["12", "3"]))
    assert not is_raw_float(pl.Series(["12.50", "v1.2"]))
    assert not is_raw_float(pl.Series([12]))


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_features_make_one_event_a_column(tmp_path: Path, ending: str) -> None:
    frame = pl.DataFrame(
        {
            "user": ["a", "b", "c"],
            "time": ["2025-02-01"] * 3,
            "age_band": ["25-34", None, "35-44"],
            "tenure": [3, 4, None],
            "balance": [1.5, None, None],
        }
    )
    write(tmp_path / f"logs/a.{ending}", frame)
    features = ["age_band", "tenure", "balance"]
    source = {"path": "logs/*", "user": "user", "time": "time", "modality": "tabular", "features": features}
    report = ingest(project(tmp_path, source), tmp_path / "store")
    assert [(event[0], *event[3:]) for event in content(tmp_path / "store")] == [
        ("a", "age_band", "age band: 25-34", None),
        ("a", "balance", "balance", 1.5),
        ("a", "tenure", "tenure", 3.0),
        ("b", "tenure", "tenure", 4.0),
        ("c", "age_band", "age band: 35-44", None),
    ]
    assert report.rejects == {}


def test_features_have_their_own_value_and_category(tmp_path: Path) -> None:
    write(tmp_path / "logs/a.csv", pl.DataFrame({"user": ["a"], "time": ["2025-02-01"], "age": [3]}))
    source = {"path": "logs/*", "user": "user", "time": "time", "modality": "tabular", "features": ["age"]}
    with pytest.raises(ConfigError, match="`value` does not go with `features`"):
        ingest(project(tmp_path, {**source, "value": "age"}), tmp_path / "store")
