"""The whole job on a small wallet through the command line: what it leaves, what a rerun skips, how it fails."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path

import polars as pl
import pytest
import yaml
from rich.console import Console

from qanchor import QAnchor, config
from qanchor.cli import main
from qanchor.daily import Daily
from qanchor.datasets import wallet
from qanchor.errors import DataError
from qanchor.events.store import EventStore
from qanchor.inference.search import direction, without
from qanchor.pipeline import Project
from qanchor.policies import trial
from qanchor.useru.statements import Framing

SCENARIOS = ("login", "forest", "value")
TRAINING = {
    "pretrain": {"align_steps": 8, "steps": 4, "batch": 16, "pairs": 2, "validate_every": 4},
    "tune": {"steps": 4, "batch": 16, "validate_every": 2},
}


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Raw logs of 400 users, and the run that `qanchor evaluate` makes of them."""
    folder = tmp_path_factory.mktemp("wallet")
    path = wallet.prepare(folder / "raw", users=400)
    settings = yaml.safe_load(path.read_text())
    settings["scenarios"] = {name: settings["scenarios"][name] for name in SCENARIOS}
    settings |= {"training": TRAINING, "model": {"hidden": 64}, "shards": 2}
    path.write_text(yaml.safe_dump(settings))
    assert run("evaluate", "--config", str(path), "--out", str(folder / "run"), "--json") == 0
    return Project.open(path, folder / "run", Console())


def test_results_have_the_promised_structure(project):
    results = json.loads((project.out / "results.json").read_text())
    assert results["data"] == "wallet"
    columns = {"counts", "zero-shot", "base", "swapped", "tuned", "oracle"}
    assert set(results["scenarios"]) == set(SCENARIOS)
    for row in [*results["scenarios"].values(), results["average"]]:
        assert set(row) == columns
        assert all({"auc", "ks"} <= set(row[column]) for column in columns)
    assert {"ingest", "useru", "pretrain", "count", "tune", "embed", "evaluate"} <= set(results["seconds"])
    assert "<table" in (project.out / "report.html").read_text()


def test_embeddings_are_parquet_of_fixed_size_lists_and_the_model_gives_them_again(project):
    frame = pl.read_parquet(project.out / "embeddings" / "tuned.parquet")
    assert frame.columns == ["user_id", "as_of", "scenario", "embedding"]
    assert frame["embedding"].dtype == pl.Array(pl.Float32, 128)
    assert len(frame) == len(project.requests) * len(SCENARIOS)
    model = QAnchor.from_pretrained(project.out / "model")
    again = model.embed(project.past.take(project.rows("test")), scenarios=["forest"])[:, 0]
    written = frame.filter(pl.col("scenario") == "forest")["embedding"].to_numpy()[project.rows("test")]
    assert abs(again - written).max() < 0.05  # bf16: other batches round differently


def test_no_test_user_is_in_useru_and_test_windows_are_later(project):
    useru = pl.read_parquet(project.out / "useru" / "*.parquet")
    split = project.requests.group_by("split").agg(pl.col("user_id").unique(), pl.col("as_of").max())
    of = {row["split"]: row for row in split.iter_rows(named=True)}
    assert not set(useru["user_id"]) & set(of["test"]["user_id"])
    assert not set(of["train"]["user_id"]) & set(of["test"]["user_id"])
    assert (of["test"]["as_of"] - of["train"]["as_of"]).days >= project.config.windows.predict_days


def test_a_rerun_does_nothing(project, capsys):
    before = {path: path.stat().st_mtime_ns for path in project.out.rglob("*") if path.is_file()}
    command = ("evaluate", "--config", str(project.config.root / "qanchor.yaml"), "--out", str(project.out), "--json")
    assert run(*command) == 0
    assert "pretrain: up to date" in capsys.readouterr().err
    after = {path: path.stat().st_mtime_ns for path in project.out.rglob("*") if path.is_file()}
    assert {path for path in before if before[path] != after[path]} <= {
        project.out / "results.json",
        project.out / "report.html",
        project.out / "stages" / "report.json",
    }


def test_policies_decide_about_test_users_alone_and_meet_in_an_ab_test(project, capsys, monkeypatch):
    monkeypatch.setattr(trial, "RANDOMISATIONS", 2)
    command = ("--config", str(project.config.root / "qanchor.yaml"), "--out", str(project.out), "--json")
    test = set(project.requests[project.rows("test")]["user_id"])
    assert run("policy", "engage", "--scenario", "value", "--capacity", "7", "--quiet", "20", "10", *command) == 0
    calls = pl.read_parquet(project.out / "policies" / "calls.parquet")
    assert calls["rank"].to_list() == list(range(1, 8))
    assert set(calls["user_id"]) <= test
    assert calls["hour"].is_between(10, 19).all()
    assert calls["gain"].is_sorted(descending=True)
    # who was called today is not called again tomorrow
    calls.select("user_id", time=pl.lit(project.config.windows.test[0]) - dt.timedelta(hours=5)).write_parquet(
        project.out / "contacts.parquet"
    )
    contacts = ("--contacts", str(project.out / "contacts.parquet"))
    assert run("policy", "engage", "--scenario", "value", "--capacity", "7", *contacts, *command) == 0
    assert not set(calls["user_id"]) & set(pl.read_parquet(project.out / "policies" / "calls.parquet")["user_id"])
    capsys.readouterr()

    assert run("policy", "risk", "--scenario", "login", "--miss", "3", *command) == 0
    told = json.loads(capsys.readouterr().out)
    flagged = pl.read_parquet(project.out / "policies" / "flagged.parquet")
    assert len(flagged) == told["arms"]["tuned"]["flagged"] > 0
    assert set(flagged["user_id"]) <= test
    assert set(flagged["reason"]) <= set(project.past.modalities)
    assert (flagged["attention"] > flagged["usual_attention"]).all()
    assert sum(tenth["users"] for tenth in told["lift"]) == told["users"] == len(test)

    assert run("policy", "ab", "--scenario", "value", *command) == 0
    arms = json.loads(capsys.readouterr().out)["arms"]
    assert list(arms) == ["rule", "lightgbm", "base", "tuned"]
    assert sum(arm["users"] for arm in arms.values()) == len(test)
    assert arms["rule"]["contrast"] is None
    assert 0 <= arms["tuned"]["contrast"]["variance_taken"] < 1
    assert run("policy", "ab", "--scenario", "value", *command[:-1]) == 0
    assert "simulated by us" in " ".join(capsys.readouterr().out.split())


def test_embed_and_refresh_leave_the_same_files(project, tmp_path, capsys):
    command = ("--config", str(project.config.root / "qanchor.yaml"), "--out", str(project.out), "--json")
    day = project.config.windows.test[0]
    for days in (2, 1):
        assert run("refresh", "--day", str(day - dt.timedelta(days=days)), *command) == 0
        refreshed = json.loads(capsys.readouterr().out)
    assert refreshed["as_of"] == str(day)
    assert refreshed["embedded"] + refreshed["carried"] == len(SCENARIOS) * refreshed["users"]
    assert (
        run("embed", "--as-of", str(day), "--query", "trip=Will this user travel?", "--scenario", "forest", *command)
        == 0
    )
    embedded = json.loads(capsys.readouterr().out)  # forest is there
    assert (embedded["embedded"], embedded["users"]) == (refreshed["users"], refreshed["users"])
    frame = pl.read_parquet(project.out / "embeddings" / f"as_of={day}" / "trip" / "*.parquet")
    assert frame.columns == ["user_id", "as_of", "scenario", "embedding"]
    assert frame["embedding"].dtype == pl.Array(pl.Float32, 128)
    assert set(frame["user_id"]) == set(project.store.population(day))
    assert len(Daily(project).profiles.get(frame["user_id"][0], project.store.texts()).time)
    assert run("embed", "--scenario", "moon", *command) == 1
    assert "no scenario 'moon' in the config; known are: forest, login, value" in capsys.readouterr().err
    assert run("embed", "--query", "what?", *command) == 1
    assert "expected NAME=QUESTION" in capsys.readouterr().err


def test_search_is_the_product_over_what_embed_wrote(project, tmp_path, capsys):
    day, yaml_file = project.config.windows.test[0], str(project.config.root / "qanchor.yaml")
    embed = (
        "embed",
        "--config",
        yaml_file,
        "--out",
        str(project.out),
        "--as-of",
        str(day),
        "--sink",
        "lance",
        "--json",
    )
    assert run(*embed, "--scenario", "forest") == 0
    capsys.readouterr()
    command = (
        "search",
        "plays the wallet forest",
        "-k",
        "7",
        "--config",
        yaml_file,
        "--run",
        str(project.out),
        "--json",
    )
    assert run(*command, "--out", str(tmp_path / "audience.csv")) == 0
    found = json.loads(capsys.readouterr().out)
    # the very words of a scenario's statement choose that scenario
    assert (found["scenario"], found["as_of"]) == ("forest", str(day))
    frame = pl.read_parquet(project.out / "embeddings" / f"as_of={day}" / "forest" / "*.parquet")
    model, framing = QAnchor.from_pretrained(project.out / "model"), Framing.of(project.config)
    rest_NO = without(model.written_along("forest"), frame["embedding"].to_numpy())
    scores = rest_NO @ direction(model, framing, "plays the wallet forest")
    expected = frame.select("user_id", score=pl.Series(scores)).sort("score", "user_id", descending=[True, False])[:7]
    assert [user["user_id"] for user in found["users"]] == expected["user_id"].to_list()
    assert [user["score"] for user in found["users"]] == pytest.approx(expected["score"].to_list())
    assert pl.read_csv(tmp_path / "audience.csv")["user_id"].to_list() == expected["user_id"].to_list()
    assert run(*command, "--approximate") == 0
    assert json.loads(capsys.readouterr().out)["users"] == found["users"]  # too few for an index
    assert run(*command, "--scenario", "moon") == 1
    assert "no embeddings of 'moon'" in capsys.readouterr().err
    assert run(*command, "--as-of", "2020-01-01") == 1
    error = capsys.readouterr().err
    assert "days with some: " in error
    assert str(day) in error
    assert run(*command, "--out", "audience.txt") == 1
    assert "ends in .parquet or .csv" in capsys.readouterr().err


def test_a_planted_future_event_changes_no_prefix(project, tmp_path):
    """The same logs with one more event at as_of: every profile stays as it is, the future gains one."""
    raw = pl.read_parquet(project.config.root / "search" / "*.parquet")
    user = project.requests.filter(pl.col("split") == "test")["user_id"][0]
    as_of = project.requests.filter(pl.col("split") == "test")["as_of"][0]
    planted = raw.head(1).with_columns(
        user_id=pl.lit(user), ts=pl.lit(int(as_of.timestamp())).cast(raw["ts"].dtype), query=pl.lit("planted words")
    )
    settings = project.config.model_dump(mode="json") | {"sources": [], "scenarios": {}}
    for source in project.config.sources:
        settings["sources"].append(source.model_dump() | {"path": str(project.config.root / source.path)})
    planted.write_parquet(tmp_path / "planted.parquet")
    search = next(s for s in settings["sources"] if s["modality"] == "search")
    settings["sources"].append(search | {"path": str(tmp_path / "planted.parquet")})
    (tmp_path / "qanchor.yaml").write_text(yaml.safe_dump(settings))
    assert run("ingest", "--config", str(tmp_path / "qanchor.yaml"), "--out", str(tmp_path / "run")) == 0

    store = EventStore.open(config.load(tmp_path / "qanchor.yaml"), tmp_path / "run" / "store")
    keys = project.requests.select("user_id", "as_of")
    past, future = store.profiles(keys), store.futures(keys, 30)
    assert "planted words" not in {past.texts.text[row] for row in past.text}
    assert "planted words" in {future.texts.text[row] for row in future.text}
    assert (past.counts == project.past.counts).all()


def test_the_python_of_the_quickstart_runs(project):
    page = (Path(__file__).parent.parent / "docs" / "quickstart.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    for typed, ours in (("runs/demo/raw", project.config.root), ("runs/demo", project.out), ("takeout", "forest")):
        code = code.replace(typed, str(ours))
    names: dict[str, object] = {}
    exec(code, names)
    assert len(names["profiles"]) == 100


def test_the_python_of_the_daily_page_runs(project):
    assert run("refresh", "--config", str(project.config.root / "qanchor.yaml"), "--out", str(project.out)) == 0
    page = (Path(__file__).parent.parent / "docs" / "daily.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    user = project.store.population(project.store.days()[-1])[0]
    for typed, ours in (("runs/demo/raw", project.config.root), ("runs/demo", project.out), ("USER", user)):
        code = code.replace(typed, str(ours))
    names: dict[str, object] = {}
    exec(code, names)
    assert names["profile"].user_ids.tolist() == [user]


def test_errors_are_one_line_with_the_remedy(tmp_path, capsys):
    assert run("ingest", "--config", str(tmp_path / "no.yaml")) == 1
    assert "qanchor init" in capsys.readouterr().err
    assert run("demo", "--data", "moon") == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert run("demo", "--data", "travel", "--data-dir", str(tmp_path), "--out", str(tmp_path / "run")) == 1
    assert "Posts" in capsys.readouterr().err


def test_a_forgotten_user_is_nowhere(project, capsys):
    """The last test: it changes the project."""
    command = ("--config", str(project.config.root / "qanchor.yaml"), "--out", str(project.out), "--json")
    user = project.requests.filter(pl.col("split") == "train")["user_id"][0]
    assert run("refresh", *command) == 0
    capsys.readouterr()
    assert run("forget", user, *command) == 0
    traces = {trace["place"]: (trace["before"], trace["after"]) for trace in json.loads(capsys.readouterr().out)}
    assert all(traces[place][0] > 0 for place in ("events", "profiles", "embeddings and pairs"))
    assert {after for _, after in traces.values()} == {0}
    assert not any(user.encode() in path.read_bytes() for path in project.out.rglob("*") if path.is_file())
    assert run("refresh", *command) == 0
    assert json.loads(capsys.readouterr().out)["embedded"] == 0
    with pytest.raises(DataError, match="has no profile"):
        Daily(project).profiles.get(user, project.store.texts())
