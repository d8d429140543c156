"""`qanchor bench` on a small wallet: tables, processes, a rerun, our own rows, names that do not exist."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from qanchor.cli import main
from qanchor.contest import bench_of, changed
from qanchor.evaluation.bench import Unit
from qanchor.pipeline import Project, prepared


def bench(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(("bench", *arguments))
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def wallet(tmp_path_factory):
    return tmp_path_factory.mktemp("wallet")


def test_units_in_another_process_and_none_in_a_rerun(wallet, capsys):
    command = ("--users", "300", "--out", str(wallet), "--seeds", "1", "--json", "--only", "counts")
    assert bench(*command, "--jobs", "2") == 0
    capsys.readouterr()
    units = {path: path.stat().st_mtime_ns for path in (wallet / "bench" / "units").iterdir()}
    assert len(units) == 4  # two settings
    assert bench(*command, "--only", "lightgbm") == 0
    told = json.loads(capsys.readouterr().out)
    assert {row["row"] for row in told["rows"]} == {"counts", "lightgbm"}
    assert told["failed"] == {}
    assert {path: path.stat().st_mtime_ns for path in units} == units
    assert "| lightgbm |" in (wallet / "bench" / "results.md").read_text()


def test_an_unknown_method_is_one_line_that_names_the_nearest(wallet, capsys):
    assert bench("--users", "300", "--out", str(wallet), "--only", "msd") == 1
    assert "did you mean 'msdp'?" in capsys.readouterr().err


@pytest.fixture(scope="module")
def tiny(wallet):
    """A project whose models are trained in a moment, for two scenarios."""
    project = prepared("wallet", None, wallet, Console(quiet=True), {"users": 300}, from_scratch=True)
    small = {
        "training.pretrain.align_steps": 1,
        "training.pretrain.steps": 1,
        "training.tune.steps": 2,
        "training.tune.validate_every": 1,
        "model.hidden": 64,
        "scenarios": {name: project.config.model_dump()["scenarios"][name] for name in ("login", "value")},
    }
    return Project(changed(project.config, small), project.stages)


def test_our_own_rows_share_the_store_and_leave_base_and_tuned(tiny):
    own = bench_of(tiny, ["untrained"])
    outcome = own.run(Unit("untrained", {}, 0))
    assert set(outcome.rows) == {"untrained", "w/o pretraining"}
    assert set(outcome.rows["untrained"]) == {"login", "value"}
    assert set(outcome.measured["attention"]["tuned"]) == {"login", "value"}
    assert sum(outcome.measured["attention"]["base"]["login"].values()) == pytest.approx(1, abs=1e-3)
    model, survey = sorted((tiny.out / "bench" / "models").iterdir())
    assert survey.name.startswith("useru-")
    assert (model / "store").is_symlink()
    assert (model / "useru").resolve() == survey / "useru"
    assert not (model / "checkpoints").exists()


def test_a_row_is_trained_and_embedded_for_what_it_is_judged_by_alone(tiny):
    own = bench_of(tiny, [])
    before = {path.parent.name for path in tiny.out.glob("bench/models/*/tuned/*/stages")}
    assert set(own.run(Unit("instructue", {}, 0)).rows) == {"InstructUE-like"}
    assert set(own.run(Unit("w/o user token", {}, 0)).rows) == {"w/o user token"}
    runs = [path.parent for path in tiny.out.glob("bench/models/*/tuned/*/stages") if path.parent.name not in before]
    done = {run: {stage.stem for stage in (run / "stages").iterdir()} for run in runs}
    kinds = {run: {kind.stem for kind in (run / "embeddings").glob("*.parquet")} for run in runs}
    (base,) = (run for run in runs if kinds[run] == {"base"})
    (tuned,) = (run for run in runs if kinds[run] == {"tuned"})
    assert "tune" not in done[base]
    assert "tune" in done[tuned]
