"""The command line: one verb a function, no logic."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from qanchor import __version__
from qanchor.errors import ConfigError, QAnchorError
from qanchor.options import ConfigOption, JsonOption, OutOption, opened
from qanchor.policies.commands import policy_app
from qanchor.serving.commands import audit_app, keys_app, vault_app

app = typer.Typer(
    help="One user model for all scenarios: event logs in, query-anchored user embeddings out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
useru_app = typer.Typer(invoke_without_command=True)
app.add_typer(useru_app, name="useru")
EngineOption = Annotated[Literal["local", "ray"], typer.Option(help="Shards one by one here, or on a Ray cluster.")]
AddressOption = Annotated[str | None, typer.Option(help="Of the Ray cluster; left out, RAY_ADDRESS or this machine.")]


def _daily(
    config: Path, out: Path | None, as_json: bool, engine: Literal["local", "ray"] = "local", address: str | None = None
) -> Any:
    from qanchor.daily import Daily

    return Daily(opened(config, out, as_json), engine, address)


def _said(report: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(report)))


def _named(queries: Sequence[str]) -> dict[str, str]:
    """NAME=QUESTION options."""
    pairs = [query.partition("=") for query in queries]
    for name, sign, question in pairs:
        if not (name and sign and question):
            raise ConfigError(f"got --query {name + sign + question!r}, expected NAME=QUESTION")
    return {name: question for name, _, question in pairs}


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
    project = opened(config, out, as_json)
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
    project = opened(config, out, as_json)
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
    opened(config, out, stderr=False).show_useru(user)


@useru_app.command()
def topics(
    config: ConfigOption = Path("qanchor.yaml"),
    out: OutOption = None,
    generate: Annotated[bool, typer.Option("--generate", help="Ask the LLM for topics of these logs' own.")] = False,
    to: Annotated[Path, typer.Option(help="Where to write the generated topics.")] = Path("topics.json"),
    yes: Annotated[bool, typer.Option("--yes", help="Write without asking.")] = False,
) -> None:
    """Print the topics of D_uqa and what the logs have of each; or generate a domain's own."""
    project = opened(config, out, stderr=False)
    if generate:
        project.generate_topics(to, lambda: yes or typer.confirm(f"Write {to}?"))
    else:
        project.show_topics()


@app.command()
def pretrain(config: ConfigOption = Path("qanchor.yaml"), out: OutOption = None, as_json: JsonOption = False) -> None:
    """Train the model on UserU; interrupted, it goes on from its last checkpoint."""
    project = opened(config, out, as_json)
    project.pretrain()
    _done(project, as_json)


@app.command()
def tune(config: ConfigOption = Path("qanchor.yaml"), out: OutOption = None, as_json: JsonOption = False) -> None:
    """Learn a soft prompt for every scenario of the config."""
    project = opened(config, out, as_json)
    project.tune()
    _done(project, as_json)


@app.command()
def embed(
    config: ConfigOption = Path("qanchor.yaml"),
    out: OutOption = None,
    as_of: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The day looked from; left out, after the last event.")
    ] = None,
    scenario: Annotated[
        list[str] | None, typer.Option(help="A tuned scenario; may be repeated. Left out, all.")
    ] = None,
    query: Annotated[list[str] | None, typer.Option(help="NAME=QUESTION, any question; may be repeated.")] = None,
    sink: Annotated[
        Literal["parquet", "lance"], typer.Option(help="lance: also a data set for vector search.")
    ] = "parquet",
    engine: EngineOption = "local",
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Embed every user at an as_of into embeddings/as_of=.../, shard by shard, with the model that is there."""
    daily = _daily(config, out, as_json, engine, address)
    _said(daily.embed(as_of and as_of.date(), scenario or [], _named(query or []), sink), as_json)


@app.command()
def refresh(
    config: ConfigOption = Path("qanchor.yaml"),
    out: OutOption = None,
    day: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="The day that has ended; left out, the last with events."),
    ] = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ingest what came in, and embed the users that changed since the last refresh, for all scenarios."""
    _said(_daily(config, out, as_json, engine, address).refresh(day and day.date()), as_json)


@app.command()
def search(
    sentence: Annotated[str, typer.Argument(help="True of the users wanted: 'books a hotel'.")],
    config: ConfigOption = Path("qanchor.yaml"),
    out: Annotated[Path | None, typer.Option("--run", help="Run folder; left out, runs/NAME of the config.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="So many users.")] = 100,
    unlike: Annotated[str | None, typer.Option("--not", help="And what is not true of them.")] = None,
    as_of: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Day of the embeddings; left out, the newest.")
    ] = None,
    scenario: Annotated[
        str | None, typer.Option(help="Whose embeddings; left out, the scenario whose statement is nearest.")
    ] = None,
    approximate: Annotated[bool, typer.Option("--approximate", help="By the index of `embed --sink lance`.")] = False,
    to: Annotated[Path | None, typer.Option("--out", "-o", help="Write them to a .parquet or .csv file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """The users nearest to a sentence, among the embeddings that `embed` and `refresh` wrote."""
    from qanchor import audience

    daily = _daily(config, out, as_json)
    found = audience.search(daily, sentence, k, as_of and as_of.date(), scenario, unlike, approximate)
    if to is not None:
        audience.write(found, to)
    if as_json:
        print(json.dumps({**asdict(found), "users": [one._asdict() for one in found.users]}))
    elif to is None:
        daily.project.console.print(audience.table(found))


@app.command()
def forget(
    users: Annotated[list[str], typer.Argument(help="Ids of the users.")],
    config: ConfigOption = Path("qanchor.yaml"),
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove users' events, profiles, embeddings and pairs, keep them out of later ingests, and count what is left."""
    from qanchor.forget import forget as forget_users

    traces = forget_users(_daily(config, out, as_json), users)
    if as_json:
        print(json.dumps([asdict(trace) for trace in traces]))
    for trace in () if as_json else traces:
        print(f"{trace.place}: {trace.before:,} rows before, {trace.after:,} now")


@app.command()
def evaluate(config: ConfigOption = Path("qanchor.yaml"), out: OutOption = None, as_json: JsonOption = False) -> None:
    """Probe the embeddings against hand-made features: table, results.json, report.html."""
    project = opened(config, out, as_json)
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
    study: Annotated[
        Literal["data", "model", "prompts", "steps"] | None,
        typer.Option(help="One knob of our model turned, instead of the methods (Tables 7-10)."),
    ] = None,
    users: Annotated[int | None, typer.Option(min=50, help="Users of the simulated wallet (8,000).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Every baseline and every ablation on the same users, judged alike; killed, it goes on."""
    from qanchor.contest import run

    world = {} if users is None else {"users": users}
    place = run(data, data_dir, out, Console(stderr=as_json), _command(), world, only or [], seeds, jobs, study)
    if as_json:
        print((place / "results.json").read_text())


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


@app.command()
def probes(config: ConfigOption = Path("qanchor.yaml"), out: OutOption = None, as_json: JsonOption = False) -> None:
    """Fit a probe for every scenario on an evaluated run's labels: what `/v1/score` answers by."""
    from qanchor.serving.probes import Probe, fit_probes

    project = opened(config, out, as_json)
    found = fit_probes(project)
    for name, probe in () if as_json else found.items():
        print(f"{name}: {f'validation AUC {probe.auc:.3f}' if isinstance(probe, Probe) else f'none, {probe}'}")
    if as_json:
        print(json.dumps({name: probe.auc if isinstance(probe, Probe) else None for name, probe in found.items()}))


@app.command()
def serve(
    config: ConfigOption = Path("qanchor.yaml"),
    out: OutOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes any that is free.")] = 8000,
    keys: Annotated[Path | None, typer.Option(help="API keys' hashes; left out, serving/keys.json of the run.")] = None,
    audit: Annotated[Path | None, typer.Option(help="The audit log's folder; left out, serving/audit of it.")] = None,
    issuer: Annotated[str | None, typer.Option(help="Tokens (OpenID Connect): who issues them,")] = None,
    audience: Annotated[str, typer.Option(help="for whom,")] = "qanchor",
    jwks: Annotated[str | None, typer.Option(help="and where the issuer's keys are: an https URL or a file.")] = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Ask for no key; on a loopback address only.")] = False,
    rate: Annotated[float, typer.Option(min=0.1, help="Users x questions a second that one key may ask for.")] = 20_000,
    warm_mb: Annotated[int, typer.Option(min=1, help="Memory for prefixes of users who were asked for lately.")] = 512,
    tls_cert: Annotated[Path | None, typer.Option(help="HTTPS: the certificate with its chain, PEM,")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="and its private key, PEM.")] = None,
) -> None:
    """Serve the last refresh, and what came since, over HTTP."""
    from qanchor.serving.serve import serve as run

    project = _daily(config, out, False)
    run(project, host, port, keys, audit, issuer, audience, jwks, no_auth, rate, warm_mb, tls_cert, tls_key)


app.add_typer(policy_app, name="policy")
app.add_typer(keys_app, name="keys")
app.add_typer(vault_app, name="vault")
app.add_typer(audit_app, name="audit")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an expected failure is one line on stderr and exit code 1."""
    try:
        app(arguments)
    except QAnchorError as error:
        print(f"qanchor: {error}", file=sys.stderr)
        sys.exit(1)
