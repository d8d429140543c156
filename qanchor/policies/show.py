"""What the policies found, as tables for the console; the paper's own figures stand beside ours."""

from __future__ import annotations

from typing import Any

import polars as pl
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

AB_PAPER = {
    "drawdown rate": "+12.5%",
    "outstanding balance per user": "+5.3%",
    "product visit rate": "+4.2%",
    "drawdown page visits": "+17.7%",
    "delinquency KS": "+1.96%",
}
"""Section 5.3: Alipay, two weeks, embeddings against fixed time or rule. Comparable in kind, not in size."""
RISK_PAPER = {"lightgbm": 0.1499, "base": 0.1534, "tuned": 0.1700}
"""Table 11: KS of credit delinquency; what stands for our LightGBM is its "Business SOTA"."""
STOPS = "looks: an interval that may be read every day; day: the first on which it left out 0."
REPLAYED = "replayed: the policy let loose on all test users, against the rule on the same users with the same luck."
OURS = "The size of a call's effect is simulated by us (docs/policies.md)."


def ab_table(result: dict[str, Any]) -> RenderableType:
    """The arms, what the A/B test says of each against the rule, and what is true."""
    title = f"{result['scenario']}: {result['users']:,} test users, {result['uncalled']:.1%} convert without any call"
    grid = _grid(title)
    columns = ("arm", "users", "calls", "answered", "converted", "effect, one look", "by CUPED", "variance")
    for column in (*columns, "looks", "day", "replayed", "lift", "covered", "found"):
        grid.add_column(column, justify="left" if column == "arm" else "right", no_wrap=True)
    for name, arm in result["arms"].items():
        cells = [name, f"{arm['users']:,}", f"{arm['calls']:,}", f"{arm['answered']:,}", f"{arm['conversion']:.1%}"]
        told = arm["contrast"]
        if told is None:
            grid.add_row(*cells, *["–"] * 5, f"{arm['replayed']:.1%}")
            continue
        truth = told["replayed"]
        grid.add_row(
            *cells,
            _interval(told["naive"]),
            _interval(told["cuped"]),
            f"-{told['variance_taken']:.0%}",
            f"[{100 * told['lower']:+.1f}, {100 * told['upper']:+.1f}]",
            str(told["stop"] or "never"),
            _interval(truth),
            f"{truth['difference'] / truth['control']:+.1%}",
            f"{told['covered']:.0%}",
            f"{told['found']:.0%}",
        )
    paper = ", ".join(f"{what} {value}" for what, value in AB_PAPER.items())
    notes = (
        "Differences to the rule in points of conversion, with 95% intervals.",
        STOPS,
        REPLAYED,
        "covered, found: of fresh randomisations, whose CUPED interval holds the replayed effect, leaves out 0.",
        OURS,
        f"The paper (section 5.3, Alipay, two weeks, embeddings against fixed time or rule): {paper}.",
    )
    return Group(grid, *(Text(note, "dim") for note in notes))


def risk_table(result: dict[str, Any]) -> RenderableType:
    """The arms' cut-offs and what they cost, and the lift of the chosen one by tenths."""
    costs = result["costs"]
    grid = _grid(f"{result['scenario']}: {result['users']:,} test users, {result['rate']:.1%} positive")
    for column in ("arm", "AUC", "KS", "paper's KS", "cut-off", "flagged", "caught", "right", "cost a user"):
        grid.add_column(column, justify="left" if column == "arm" else "right", no_wrap=True)
    for name, arm in result["arms"].items():
        right = "–" if arm["right"] is None else f"{arm['right']:.0%}"
        cells = (f"{arm['auc']:.3f}", f"{arm['ks']:.3f}", f"{RISK_PAPER[name]:.4f}", f"{arm['cut_off']:.3f}")
        grid.add_row(name, *cells, f"{arm['flagged']:,}", f"{arm['caught']:.0%}", right, f"{arm['cost']:.3f}")
    nobody = f"A miss costs {costs['miss']:g}, a false alarm {costs['alarm']:g}; flagging nobody would cost "
    nobody += f"{result['cost_of_flagging_nobody']:.3f} a user. Cut-offs are chosen on validation users."
    lift = _grid("lift by tenths of the test users, tuned")
    for column in ("tenth", "users", "positives", "rate", "lift", "captured"):
        lift.add_column(column, justify="right")
    for number, tenth in enumerate(result["lift"], 1):
        rates = (f"{tenth['rate']:.1%}", f"{tenth['lift']:.2f}", f"{tenth['captured']:.0%}")
        lift.add_row(str(number), f"{tenth['users']:,}", f"{tenth['positives']:,}", *rates)
    where = "The paper's KS: Table 11, credit delinquency; what stands for lightgbm is its “Business SOTA”."
    return Group(grid, Text(nobody, "dim"), Text(where, "dim"), lift)


def frame_table(frame: pl.DataFrame, title: str, rows: int = 10) -> RenderableType:
    """The first rows of a list of users."""
    grid = _grid(f"{title}: {min(rows, len(frame))} of {len(frame):,}")
    for column in frame.columns:
        grid.add_column(column, justify="left" if frame[column].dtype == pl.String else "right")
    for row in frame.head(rows).iter_rows():
        grid.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row))
    return grid


def _grid(title: str) -> Table:
    return Table(box=None, padding=(0, 1, 0, 0), title=title, title_justify="left")


def _interval(effect: dict[str, Any]) -> str:
    """Points of conversion: `+1.2 [+0.3, +2.1]`."""
    return f"{100 * effect['difference']:+.1f} [{100 * effect['lower']:+.1f}, {100 * effect['upper']:+.1f}]"
