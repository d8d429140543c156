"""The command line's verbs for policies: no logic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from qanchor.options import ConfigOption, JsonOption, OutOption, opened

policy_app = typer.Typer(no_args_is_help=True, help="Decisions from embeddings: engage, risk, ab.")
ScenarioOption = Annotated[str, typer.Option(help="A scenario of the config.")]


def _said(result: dict[str, Any], place: Path, as_json: bool, *shown: Any) -> None:
    from qanchor.events import atomic

    atomic.write_json(place, result)
    if as_json:
        print(json.dumps(result))
        return
    console = Console()
    for table in shown:
        console.print(table)
    console.print(f"[bold]{place}[/] has the numbers")


@policy_app.command()
def engage(
    scenario: ScenarioOption,
    config: ConfigOption = Path("qanchor.yaml"),
    out: OutOption = None,
    capacity: Annotated[int, typer.Option(min=1, help="Calls that can be made today.")] = 100,
    max_contacts: Annotated[int, typer.Option(min=1, help="Calls a user in any two weeks.")] = 2,
    min_gap_days: Annotated[int, typer.Option(min=1, help="Days between two calls to a user.")] = 3,
    quiet: Annotated[tuple[int, int], typer.Option(help="No calls from this hour until that one, local time.")] = (
        21,
        9,
    ),
    utc_offset: Annotated[float, typer.Option(help="Hours that local clocks are ahead of the logs'.")] = 0,
    contacts: Annotated[Path | None, typer.Option(help="Parquet of calls so far: user_id, time.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Whom to call today, at which hour: policies/calls.parquet."""
    from dataclasses import asdict

    from qanchor.policies import decide, show
    from qanchor.policies.engagement import Limits

    project = opened(config, out, stderr=True)
    limits = Limits(max_contacts=max_contacts, min_gap_days=min_gap_days, quiet=quiet)
    calls = decide.engage(project, scenario, capacity, limits, contacts, utc_offset)
    place = project.out / "policies"
    place.mkdir(parents=True, exist_ok=True)
    calls.write_parquet(place / "calls.parquet")
    result = {"scenario": scenario, "calls": len(calls), "limits": asdict(limits)}
    _said(result, place / "engage.json", as_json, show.frame_table(calls, f"{scenario}: today's calls"))


@policy_app.command()
def risk(
    scenario: ScenarioOption,
    config: ConfigOption = Path("qanchor.yaml"),
    out: OutOption = None,
    miss: Annotated[float, typer.Option(min=0, help="Cost of a delinquent user who is not flagged.")] = 10,
    alarm: Annotated[float, typer.Option(min=0, help="Cost of a good user who is flagged.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Whom to flag: cut-off by cost, KS, lift; policies/flagged.parquet gives a reason each."""
    from qanchor.policies import decide, show
    from qanchor.policies.delinquency import Costs

    project = opened(config, out, stderr=True)
    result, flagged = decide.risk(project, scenario, Costs(miss, alarm))
    place = project.out / "policies"
    place.mkdir(parents=True, exist_ok=True)
    flagged.write_parquet(place / "flagged.parquet")
    _said(
        result | {"paper": show.RISK_PAPER},
        place / "risk.json",
        as_json,
        show.risk_table(result),
        show.frame_table(flagged, "flagged"),
    )


@policy_app.command()
def ab(
    scenario: ScenarioOption = "takeout",
    config: ConfigOption = Path("qanchor.yaml"),
    out: OutOption = None,
    seed: Annotated[int, typer.Option(help="Of the randomisation of users to arms.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """An A/B test of four policies on the simulated wallet: policies/ab.json."""
    from qanchor.policies import show, trial
    from qanchor.policies.engagement import Limits

    project = opened(config, out, stderr=True)
    result = trial.run(project, scenario, Limits(), seed)
    _said(result | {"paper": show.AB_PAPER}, project.out / "policies" / "ab.json", as_json, show.ab_table(result))
