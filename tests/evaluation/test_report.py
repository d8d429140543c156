"""The report is one page that needs nothing else."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from page import Page

from qanchor.evaluation import plots, report
from qanchor.evaluation.results import Results
from qanchor.probe.linear import Score

N = 120
SPLIT = np.array(["train", "test", "test"] * 40)
RANDOM = np.random.default_rng(0)
NAMES = ["pay", "fly <b>&"]
VECTORS = {kind: {name: RANDOM.normal(size=(N, 8)).astype(np.float32) for name in NAMES} for kind in ("base", "tuned")}
LABELS = {name: RANDOM.integers(0, 2, N).astype(np.float32) for name in NAMES}


def some_results(columns: list[str]) -> Results:
    row = {column: Score(0.6 + 0.05 * k, 0.2 + 0.05 * k, 0.01, 0.02, 20, 80) for k, column in enumerate(columns)}
    return Results(
        "toy", dict.fromkeys(NAMES, row), {"test rows": 80}, {"ingest": 1.5, "tune": 0.0}, "qanchor demo <x>"
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder, told = tmp_path_factory.mktemp("report"), []
    results = some_results(["counts", "base", "swapped", "tuned", "oracle"])
    report.write(folder / "report.html", results, VECTORS, LABELS, SPLIT, told.append)
    assert [path.name for path in folder.iterdir()] == ["report.html"]
    assert told == [1, 1]
    return (folder / "report.html").read_text(encoding="utf-8")


def test_points_to_nothing_outside(page: str) -> None:
    read = Page(page)
    assert not read.open
    assert len(read.links) == 4  # two charts, two scenarios' maps
    assert all(link.startswith("data:image/") for link in read.links)
    assert not {"script", "link", "iframe", "object"} & set(read.tags)
    assert not re.search(r"url\(|@import|https?://", page)


def test_shows_the_names_and_numbers_as_text(page: str) -> None:
    text = " ".join(Page(page).text)
    for part in ("fly <b>&", "qanchor demo <x>", "80 test rows", ".800", "+.050", "ingest", "swapped", "to oracle"):
        assert part in text


def test_pictures_are_pictures(page: str) -> None:
    kinds = [base64.b64decode(link.split(",", 1)[1])[:5] for link in Page(page).links]
    assert kinds == [b"<?xml", b"<?xml", b"\x89PNG\r", b"\x89PNG\r"]


def test_absent_columns_and_scores_do_not_break_the_page(tmp_path: Path) -> None:
    nan = float("nan")
    results = some_results(["counts", "base"])
    missing = Score(nan, nan, nan, nan, 0, 80, "0 of 80 test rows with a label are positive")
    unscored = replace(
        results, scenarios=results.scenarios | {"pay": dict.fromkeys(results.columns, missing)}, seconds={}
    )
    report.write(tmp_path / "report.html", unscored, {"base": VECTORS["base"]}, LABELS, SPLIT)
    text = " ".join(Page((tmp_path / "report.html").read_text(encoding="utf-8")).text)
    assert "pay: 0 of 80 test rows" in text
    assert "to oracle" not in text
    assert "Seconds" not in text


def test_same_results_same_picture() -> None:
    results = some_results(["counts", "base", "tuned"])
    assert plots.bars(results, "auc") == plots.bars(results, "auc")
    assert plots.bars(results, "auc") != plots.bars(results, "ks")


def test_maps_of_very_few_rows() -> None:
    label = np.array([0, 0, 1, np.nan], np.float32)
    assert plots.maps({"base": RANDOM.normal(size=(4, 8))}, label).startswith("data:image/png")
