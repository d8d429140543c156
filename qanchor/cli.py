"""The command line: one verb a function, no logic."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from qanchor import __version__
from qanchor.errors import QAnchorError

app = typer.Typer(
    help="One user model for all scenarios: event logs in, query-anchored user embeddings out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
useru_app = typer.Typer(invoke_without_command=True)
app.add_typer(useru_app, name="useru")
ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The project's YAML.")]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", help="Run folder; left out, runs/NAME of the config.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")]


def _project(config: Path, out: Path | None, as_json: bool) -> Any:
    from qanchor.pipeline import Project

    return Project.open(config, out, Console(stderr=as_json))


def _command() -> str:
    """The command as it was typed, for the report."""
    return " ".join(["qanchor", *sys.argv[1:]])


def _done(project: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"out": str(project.out), "seconds": project.stages.seconds}))


@app.command()
def demo(
    data: Annotated[str, typer.Option(help="wallet (simulated), travel, pcard, retail or oulad.")] = "wallet",
    data_dir: Annotated[Path | None, typer.Option(help="The publisher's files; not needed by wallet.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run folder; left out, runs/demo or runs/DATA.")
    ] = None,
    users: Annotated[int | None, typer.Option(min=50, help="Users of the simulated wallet (8,000).")] = None,
    language: Annotated[Literal["en", "zh"] | None, typer.Option(help="Language of the simulated wallet.")] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="The wallet without the weights that ship.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """The whole job on simulated or public data: prepare, ingest, train, tune, embed, probe, report."""
    from qanchor.pipeline import demo as run_demo

    world = {key: value for key, value in (("users", users), ("language", language)) if value is not None}
    project = run_demo(data, data_dir, out, Console(stderr=as_json), _command(), world, from_scratch)
    if as_json:
        print((project.out / "results.json").read_text())


@app.command()
def init(
    logs: Annotated[list[Path], typer.Argument(help="Your CSV, Parquet or JSONL files.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the YAML.")] = Path("qanchor.yaml"),
    force: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
) -> None:
    """Look at log files and write a commented qanchor.yaml that runs."""
    from qanchor.events.sketch import write

    write(logs, out, force)
    print(f"wrote {out}: read it, then `qanchor evaluate --config {out}`")


@app.command()
def ingest(config: ConfigOption = Path("qanchor.yaml"), out: OutOption = None, as_json: JsonOption = False) -> None:
    """Read event logs into day partitions; refused rows go to rejects/."""
    project = _project(config, out, as_json)
    project.ingest()
    _done(project, as_json)


@useru_app.callback()
def useru(
    context: typer.Context,
    config: ConfigOption = Path("qanchor.yaml"),
    out: OutOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only estimate what the LLM would cost.")] = False,
    budget: Annotated[float | None, typer.Option(min=0, help="Stop before the LLM has cost more than this.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Build UserU: future behaviour, and questions and answers about the profiles."""
    if context.invoked_subcommand:
        return
    project = _project(config, out, as_json)
    if dry_run:
        project.estimate_useru()
    else:
        project.useru(budget)
        _done(project, as_json)


@useru_app.command()
def show(
    user: Annotated[str, typer.Option("--user", "-u", help="The user's id.")],
    config: ConfigOption = Path("qanchor.yaml"),
    out: OutOption = None,
) -> None:
    """Print a user's profile and its pairs side by side."""
    _project(config, out, as_json=False).show_useru(user)


@useru_app.command()
def topics(
    config: ConfigOption = Path("qanchor.yaml"),
    out: OutOption = None,
    generate: Annotated[bool, typer.Option("--generate", help="Ask the LLM for topics of these logs' own.")] = False,
    to: Annotated[Path, typer.Option(help="Where to write the generated topics.")] = Path("topics.json"),
    yes: Annotated[bool, typer.Option("--yes", help="Write without asking.")] = False,
) -> None:
    """Print the topics of D_uqa and what the logs have of each; or generate a domain's own."""
    project = _project(config, out, as_json=False)
    if generate:
        project.generate_topics(to, lambda: yes or typer.confirm(f"Write {to}?"))
    else:
        project.show_topics()


@app.command()
def pretrain(config: ConfigOption = Path("qanchor.yaml"), out: OutOption = None, as_json: JsonOption = False) -> None:
    """Train the model on UserU; interrupted, it goes on from its last checkpoint."""
    project = _project(config, out, as_json)
    project.pretrain()
    _done(project, as_json)


@app.command()
def tune(config: ConfigOption = Path("qanchor.yaml"), out: OutOption = None, as_json: JsonOption = False) -> None:
    """Learn a soft prompt for every scenario of the config."""
    project = _project(config, out, as_json)
    project.tune()
    _done(project, as_json)


@app.command()
def embed(config: ConfigOption = Path("qanchor.yaml"), out: OutOption = None, as_json: JsonOption = False) -> None:
    """Embed all users for all scenarios into embeddings/*.parquet."""
    project = _project(config, out, as_json)
    project.embed()
    _done(project, as_json)


@app.command()
def evaluate(config: ConfigOption = Path("qanchor.yaml"), out: OutOption = None, as_json: JsonOption = False) -> None:
    """Probe the embeddings against hand-made features: table, results.json, report.html."""
    project = _project(config, out, as_json)
    project.report(_command())
    if as_json:
        print((project.out / "results.json").read_text())


@app.command()
def bench(
    data: Annotated[str, typer.Option(help="wallet (simulated), travel, pcard, retail or oulad.")] = "wallet",
    data_dir: Annotated[Path | None, typer.Option(help="The publisher's files; not needed by wallet.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run folder, as of `demo`; units go to bench/.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="These methods only: counts, msdp, qanchor, text:NAME ...; may be repeated."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=3, help="Seeds where a method has chance.")] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    users: Annotated[int | None, typer.Option(min=50, help="Users of the simulated wallet (8,000).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Every baseline and every ablation on the same users, judged alike; killed, it goes on."""
    from qanchor.contest import run

    world = {} if users is None else {"users": users}
    place = run(data, data_dir, out, Console(stderr=as_json), _command(), world, only or [], seeds, jobs)
    if as_json:
        print((place / "results.json").read_text())


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an expected failure is one line on stderr and exit code 1."""
    try:
        app(arguments)
    except QAnchorError as error:
        print(f"qanchor: {error}", file=sys.stderr)
        sys.exit(1)
