"""The results as one table for the console: a section for AUC, one for KS, and how far the oracle still is."""

from __future__ import annotations

from math import isfinite

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from qanchor.evaluation.results import ORACLE, Results

NOTE = "± is the spread over three bootstraps of the training users; bold is the best column, the oracle aside."


def table(results: Results) -> RenderableType:
    """Scenarios and their average by columns, AUC above KS; what has no score is listed below with its reason."""
    grid = Table(
        box=None, padding=(0, 1, 0, 0), title=f"{results.data}: linear probes on test users", title_justify="left"
    )
    grid.add_column("")
    for column in results.columns:
        grid.add_column(column, justify="right", no_wrap=True)
    if ORACLE in results.columns:
        grid.add_column("to oracle", justify="right", no_wrap=True)
    for metric in ("auc", "ks"):
        grid.add_section()
        grid.add_row(Text(metric.upper(), "bold"))
        for name, row in results.scenarios.items():
            values = {column: getattr(score, metric) for column, score in row.items()}
            spreads = {column: getattr(score, f"{metric}_spread") for column, score in row.items()}
            grid.add_row(name, *_cells(values, spreads))
        means = {column: mean[metric] for column, mean in results.average.items()}
        grid.add_row(Text("average", "bold"), *_cells(means, {}))
    return Group(grid, Text(NOTE, "dim"), *(Text(line, "yellow") for line in unscored(results)))


def best(values: dict[str, float]) -> str | None:
    """The column of the highest value, the oracle aside; None when there is no value."""
    finite = {column: value for column, value in values.items() if column != ORACLE and isfinite(value)}
    return max(finite, key=finite.__getitem__) if finite else None


def gap(values: dict[str, float]) -> float | None:
    """How far the last column before the oracle (`tuned`, where there is one) is below it; None without an oracle."""
    own = [column for column in values if column != ORACLE]
    return values[ORACLE] - values[own[-1]] if ORACLE in values and own else None


def unscored(results: Results) -> list[str]:
    """A line for each scenario that has no score, with the reason."""
    reasons = {
        name: [score.reason for score in row.values() if score.reason] for name, row in results.scenarios.items()
    }
    return [f"{name}: {given[0]}" for name, given in reasons.items() if given]


def number(value: float, sign: bool = False) -> str:
    """`.842`, as in the tables of the field; a dash for what does not exist."""
    text = f"{value:{'+' if sign else ''}.3f}".replace("0.", ".", 1)
    return text if isfinite(value) else "–"


def _cells(values: dict[str, float], spreads: dict[str, float]) -> list[Text]:
    winner = best(values)
    cells = []
    for column, value in values.items():
        cell = Text(number(value), "bold" if column == winner else "")
        if column in spreads and column != ORACLE and isfinite(value):
            cell.append(f" ±{number(spreads[column])}", "dim")
        cells.append(cell)
    missing = gap(values)
    return cells if missing is None else [*cells, Text(number(missing, sign=True))]
