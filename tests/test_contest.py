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


def test_our_own_rows_share_the_store_and_leave_base_and_tuned(wallet):
    quiet = Console(quiet=True)
    project = prepared("wallet", None, wallet, quiet, {"users": 300}, from_scratch=True)
    tiny = {
        "training.tune.steps": 2,
        "training.tune.validate_every": 1,
        "model.hidden": 64,
        "scenarios": {name: project.config.model_dump()["scenarios"][name] for name in ("login", "value")},
    }
    project = Project(changed(project.config, tiny), project.stages)
    own = bench_of(project, ["untrained"])
    outcome = own.run(Unit("untrained", {}, 0))
    assert set(outcome.rows) == {"untrained", "w/o pretraining"}
    assert set(outcome.rows["untrained"]) == {"login", "value"}
    assert set(outcome.measured["attention"]["tuned"]) == {"login", "value"}
    assert sum(outcome.measured["attention"]["base"]["login"].values()) == pytest.approx(1, abs=1e-3)
    model, survey = sorted((wallet / "bench" / "models").iterdir())
    assert survey.name.startswith("useru-")
    assert (model / "store").is_symlink()
    assert (model / "useru").resolve() == survey / "useru"
    assert not (model / "checkpoints").exists()
