"""`qanchor useru` as a user types it, with and without an LLM behind an address on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import yaml
from llm_server import LLMServer
from synthesis_world import pool

from qanchor.cli import main
from qanchor.datasets import wallet
from qanchor.useru import dataset


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs of a hundred users, ingested once."""
    folder = tmp_path_factory.mktemp("wallet")
    wallet.prepare(folder / "raw", users=100)
    assert run("ingest", "-c", str(folder / "raw" / "qanchor.yaml"), "-o", str(folder / "run")) == 0
    return folder


def asking(raw: Path, url: str, **llm: object) -> list[str]:
    """The options of a project of these logs that asks the LLM at an address."""
    settings = yaml.safe_load((raw / "raw" / "qanchor.yaml").read_text())
    settings["useru"] = {"llm": {"base_url": url, "model": "tiny", **llm}}
    path = raw / "raw" / "llm.yaml"
    path.write_text(yaml.safe_dump(settings))
    return ["-c", str(path), "-o", str(raw / "run")]


def test_without_an_llm_it_builds_shows_and_lists(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["-c", str(raw / "raw" / "qanchor.yaml"), "-o", str(raw / "run")]
    assert run("useru", *options) == 0
    card = json.loads((raw / "run" / "useru" / "card.json").read_text())
    assert card["language"] == "en"
    assert card["refused"] == {}
    user = dataset.read(raw / "run" / "useru")["user_id"][0]
    capsys.readouterr()
    assert run("useru", "show", "--user", user, *options) == 0
    told = capsys.readouterr().out
    assert user in told
    assert "[bill]" in told
    assert "What are the user's most likely" in told
    assert run("useru", "show", "--user", "nobody", *options) == 1
    assert "no pairs of user 'nobody'" in capsys.readouterr().err
    assert run("useru", "topics", *options) == 0
    assert "life/" in capsys.readouterr().out


def test_with_an_llm_d_uqa_is_its_own(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with LLMServer() as server:
        options = asking(raw, server.url, price_in=1.0, price_out=2.0)
        assert run("useru", "--dry-run", *options) == 0
        assert not server.requests
        assert "requests" in capsys.readouterr().out
        assert run("useru", "--budget", "0.000001", *options) == 1
        assert not server.requests
        assert "budget" in capsys.readouterr().err
        assert run("useru", *options) == 0
        asked = len(server.requests)
        assert run("useru", *options) == 0
        assert len(server.requests) == asked
    pairs = dataset.read(raw / "run" / "useru")
    assert set(pairs.filter(pl.col("source") == "uqa")["topic"].str.split("/").list.first()) == {"life"}
    assert "Much" in pairs.filter(pl.col("source") == "uqa")["answer"][0]
    assert pairs.filter(pl.col("source") == "future").height > 100
    card = json.loads((raw / "run" / "useru" / "card.json").read_text())
    assert card["answers"] == "tiny"
    assert card["synthesis"]["kept"] > 0


def test_killed_in_the_middle_and_run_again_each_user_is_there_once(raw: Path) -> None:
    script = f"import sys; sys.path[:0] = {sys.path!r}; from qanchor.cli import main; main(sys.argv[1:])"
    with LLMServer(delay=0.02) as server:
        options = asking(raw, server.url, concurrency=4, temperature=0.1)
        command = [sys.executable, "-c", script, "useru", *options]
        environment = {**os.environ, "POLARS_MAX_THREADS": "1"}
        first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        while len(server.requests) < 32:
            time.sleep(0.02)
            assert first.poll() is None
        first.send_signal(signal.SIGKILL)
        first.wait()
        before = len(server.requests)
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        pairs = dataset.read(raw / "run" / "useru").filter(pl.col("source") == "uqa")
        keys = pairs.select("user_id", "as_of").n_unique()
    assert pairs.select("user_id", "as_of", "topic").is_duplicated().sum() == 0
    assert len(server.requests) - before < 4 * keys  # those who were through are not asked again
    assert len(server.requests) <= 4 * keys + 16  # and of those in flight at most four requests were lost


def test_generated_topics_are_shown_before_they_are_written(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from test_synthesis_pool import script

    with LLMServer(script) as server:
        options = asking(raw, server.url)
        settings = yaml.safe_load(Path(options[1]).read_text())
        pool().save(raw / "raw" / "own.json")
        settings["useru"]["topics"] = "own.json"
        Path(options[1]).write_text(yaml.safe_dump(settings))
        out = tmp_path / "topics.json"
        assert run("useru", "topics", "--generate", "--to", str(out), "--yes", *options) == 0
    told = capsys.readouterr().out
    assert "+ side_" in told
    assert "- food" in told
    assert "tea" in out.read_text()
