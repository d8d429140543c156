"""The page of a bench and its studies, from made-up units: figures of what there is, tables that are right."""

from __future__ import annotations

import base64
import re
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricated import field, finished, methods, named
from page import Page

from qanchor.evaluation import bench_report, charts
from qanchor.evaluation.bench import Bench, play
from qanchor.evaluation.standings import standings
from qanchor.evaluation.studies import OURS, STUDIES, findings, markdown, plain

SCENARIOS = ("login", "fly <b>&")
BASELINES = {"counts": 0.9, "cpc": 1.0}
TOLD: dict[str, Any] = {
    "data": "toy",
    "command": "qanchor bench <x>",
    "hardware": "one core",
    "date": "2026-01-01",
    "sizes": {"test rows": 100},
    "failed": {"msdp": "no such thing"},
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    played = [*BASELINES, "untrained", OURS, *chain.from_iterable(map(named, STUDIES))]
    return finished(tmp_path_factory.mktemp("units"), SCENARIOS, BASELINES, list(dict.fromkeys(played)), 240, 2)


def page_of(bench: Bench, folder: Path, names: list[str], studies: tuple[str, ...] = ()) -> str:
    found = {name: part for name in studies if (part := findings(bench, STUDIES[name], named(name), 3))}
    bench_report.write(folder / "report.html", bench, standings(bench, names, 3), found, TOLD)
    assert [path.name for path in folder.iterdir()] == ["report.html"]
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> str:
    return page_of(bench, tmp_path_factory.mktemp("page"), [*BASELINES, "untrained", OURS], tuple(STUDIES))


def test_points_to_nothing_outside_and_every_tag_closes(page: str) -> None:
    read = Page(page)
    assert not read.open
    assert all(link.startswith("data:") for link in read.links)
    assert not {"script", "iframe", "object"} & set(read.tags)
    assert not re.search(r"url\(|@import|https?://", page)


def test_the_best_row_that_is_not_ours_is_no_ablation_of_ours(page: str) -> None:
    assert set(re.findall(r"for <i>([^<]+)</i>, the best row that is not ours", page)) == {"counts"}


def test_every_figure_is_there_and_described(page: str) -> None:
    read = Page(page)
    pictures = [link for link in read.links if link.startswith("data:image/")]
    kinds = [base64.b64decode(link.split(",", 1)[1])[:4] for link in pictures]
    # bars: 2 scenarios and the average; curves: 4 studies; attention: 2 scenarios; gradients
    assert kinds.count(b"<?xm") == 3 + 4 * 2 + 2 + 1
    # t-SNE and PCA of untrained, the one baseline that left embeddings, base and tuned, for 2 scenarios
    assert kinds.count(b"\x89PNG") == 2 * 4 * 2
    assert len(read.described) == len(pictures)
    assert all(len(text) > 10 for text in read.described)
    assert any("bill 50.0% to 40.0%" in text for text in read.described)
    assert not any("counts" in text for text in read.described if text.startswith("t-SNE"))
    text = " ".join(read.text)
    for part in ("Figure 5", "Figure 7", "Figure 11", "Figures 9 and 12", "Table 10", "fly <b>&", "msdp did not run"):
        assert part in text


def test_a_studys_table_holds_its_points_against_our_model_as_it_is(bench: Bench) -> None:
    found = findings(bench, STUDIES["steps"], named("steps"), 3)
    assert found is not None
    assert list(found.tables) == ["tuned"]
    rows = {row.row: row for row in found.tables["tuned"]}
    assert list(rows) == ["100", "200", "300", "400", "500 (as it is)"]
    assert rows["500 (as it is)"].apart == {}
    (tuned,) = standings(bench, [OURS], 3, ["tuned"])
    assert rows["500 (as it is)"].average == tuned.average
    for label in ("100", "400"):
        apart = rows[label].average["auc"] - tuned.average["auc"]
        assert rows[label].apart["auc"].mean == pytest.approx(apart, abs=1e-6)
        assert rows[label].seeds == 2
    assert rows["100"].average["auc"] < rows["400"].average["auc"] < tuned.average["auc"]
    assert rows["100"].apart["auc"].real
    assert found.point(rows["500 (as it is)"]) == STUDIES["steps"].points[-1]
    assert [row["row"] for row in plain({"steps": found})["steps"]["tuned"]] == list(rows)
    assert markdown({"steps": found}).count("\n| 500 (as it is) |") == 2


def test_base_is_compared_with_base(bench: Bench) -> None:
    found = findings(bench, STUDIES["data"], named("data"), 3)
    assert found is not None
    assert [row.row for row in found.tables["base"]] == ["10%", "25%", "50%", "100% (as it is)"]
    (base,) = standings(bench, [OURS], 3, ["base"])
    low = found.tables["base"][0]
    assert low.apart["ks"].mean == pytest.approx(low.average["ks"] - base.average["ks"], abs=1e-6)


def test_our_model_leads_a_study_that_it_is_no_point_of(bench: Bench) -> None:
    wider = [name if name != OURS else "model 128 x 1" for name in named("model")]
    found = findings(bench, STUDIES["model"], wider, 3)
    assert found is not None
    first = found.tables["base"][0]
    assert first.row == "our model (as it is)"
    assert found.point(first) is None
    assert charts.curves(found, "auc").startswith("data:image/svg")


def test_a_killed_study_goes_on_and_shares_our_own_unit(tmp_path: Path) -> None:
    of, truth = field(SCENARIOS, 120)
    seen: list[str] = []
    bench = Bench(tmp_path, of, methods(SCENARIOS, truth, {}, seen))
    begun = play(bench, named("data"), 1, lambda units: ((unit, bench.run(unit)) for unit in units))
    next(begun), next(begun)
    begun.close()
    assert seen == ["data 10%", "data 25%"]
    assert len(findings(bench, STUDIES["data"], named("data"), 1).tables["base"]) == 2  # type: ignore[union-attr]
    for study in ("data", "steps"):
        list(play(bench, named(study), 1, lambda units: ((unit, bench.run(unit)) for unit in units)))
    assert sorted(seen) == sorted(set(seen)), "each once, ours among them"
    assert bench.outcome(bench.first([OURS])[0]).measured["gradient"]["align"] == 80  # type: ignore[union-attr]


def test_what_is_not_finished_is_left_out(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    some = " ".join(Page(page_of(bench, tmp_path / "some", ["counts", "cpc"])).text)
    assert "Figure 5" in some
    assert "Figure 12" not in some
    of, truth = field(SCENARIOS, 120)
    empty = Bench(tmp_path / "none", of, methods(SCENARIOS, truth, {}, []))
    assert findings(empty, STUDIES["prompts"], named("prompts"), 3) is None
    bench_report.write(tmp_path / "report.html", empty, [], {}, TOLD | {"failed": {}})
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Figure" not in " ".join(Page(text).text)


def test_clouds_hold_as_many_of_each_class_and_need_two() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(60, 8)).astype(np.float16)
    few = np.array([1.0] * 3 + [0.0] * 57, np.float32)
    assert set(charts.clouds(features, few)) == {"t-SNE", "PCA"}
    assert charts.clouds(features, np.zeros(60, np.float32)) == {}
