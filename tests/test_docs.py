"""The docs do not lie: their commands exist, their YAML loads, their links lead somewhere.

Their Python is run by test_pipeline, on a small project.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from qanchor import config
from qanchor.cli import app, main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.S)


COMMANDS = sorted(
    {
        command
        for page in PAGES
        for block in blocks(page, "bash")
        for line in block.splitlines()
        if re.search(r"(^|[ /])qanchor( |$)", command := line.split("#")[0].strip())
    }
)


def _verb(words: list[str]) -> int:
    """Where the program stands: at the start, or behind torchrun's own words."""
    return next(n for n, word in enumerate(words) if word.rsplit("/")[-1] == "qanchor")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_docs_exists_with_its_options(command):
    words = shlex.split(command)
    verb = typer.main.get_command(app)
    for word in words[_verb(words) + 1 :]:
        verb = getattr(verb, "commands", {}).get(word, verb)
    assert verb is not typer.main.get_command(app), "no verb"
    options = {word for word in words if word.startswith("--")}
    known = {name for parameter in verb.params for name in parameter.opts}
    # what stands before the verb is for torchrun
    assert options - set(words[: _verb(words)]) <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_the_yaml_of_your_own_data_loads():
    block, bucket = map(yaml.safe_load, blocks(ROOT / "docs" / "your-own-data.md", "yaml"))
    assert set(config.parse(block, ROOT).scenarios) == {"comes_back", "spends_less", "churn_flag"}
    assert config.parse({"name": "shop", "windows": block["windows"], **bucket}, ROOT).storage


def test_init_and_ingest_as_the_quickstart_types_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs").mkdir()
    rows = [f"u{i % 7},2025-0{1 + i % 6}-1{i % 10}T08:00:00,{'coffee' if i % 3 else 'tea'},{i}.5" for i in range(300)]
    (tmp_path / "logs" / "orders.csv").write_text("user_id,ordered_at,product,amount\n" + "\n".join(rows) + "\n")
    for command in ("init logs/orders.csv --out qanchor.yaml", "ingest --config qanchor.yaml"):
        with pytest.raises(SystemExit) as stop:
            main(command.split())
        assert stop.value.code in (0, None)
    assert config.load(tmp_path / "qanchor.yaml").sources
