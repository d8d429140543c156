"""The progress of a bench on the screen: a line a method on a terminal, a line a finished unit elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite

from rich.console import Console
from rich.live import Live
from rich.table import Table

from qanchor.evaluation.bench import Outcome, Unit
from qanchor.evaluation.standings import Standing
from qanchor.evaluation.table import number


class Board:
    """Told of every unit that ends."""

    def __init__(self, console: Console, expected: dict[str, int]) -> None:
        """`expected`: method -> units."""
        self.console, self.expected = console, expected
        self.done: dict[str, list[Outcome]] = {name: [] for name in expected}
        self.failed: dict[str, str] = {}
        """method -> why."""

    @contextmanager
    def shown(self) -> Iterator[Board]:
        if not self.console.is_terminal:
            yield self
            return
        with Live(get_renderable=self.grid, console=self.console, refresh_per_second=2):
            yield self

    def tell(self, unit: Unit, found: Outcome | str) -> None:
        """What a unit found, or why it found nothing."""
        if isinstance(found, str):
            self.failed[unit.method] = found
        else:
            self.done[unit.method].append(found)
        if not self.console.is_terminal:
            end = found if isinstance(found, str) else f"{_aucs(found)} in {found.seconds:.0f} s"
            self.console.print(f"  {unit.label}: {end}", markup=False, highlight=False)

    def grid(self) -> Table:
        """Methods by how far they are."""
        table = Table("method", "units", "seconds", "AUC, test average", box=None, padding=(0, 2, 0, 0))
        for name, units in self.expected.items():
            done = self.done[name]
            seconds = f"{sum(outcome.seconds for outcome in done):.0f}" if done else ""
            end = self.failed.get(name) or (_aucs(done[-1]) if done else "")
            table.add_row(name, f"{len(done)}/{units}", seconds, end, style="" if len(done) < units else "dim")
        return table


def ranking(found: list[Standing]) -> Table:
    """The averages of all rows, for the end."""
    table = Table("row", "AUC", "KS", "AUC difference", "KS difference", box=None, padding=(0, 2, 0, 0))
    for s in found:
        apart = [s.apart.get(metric) for metric in ("auc", "ks")]
        told = [f"{number(d.mean, True)}{'*' if d.real else ''}" if d else "" for d in apart]
        table.add_row(s.row, number(s.average["auc"]), number(s.average["ks"]), *told)
    return table


def _aucs(outcome: Outcome) -> str:
    return ", ".join(f"{row} {number(auc)}" for row, auc in outcome.average.items() if isfinite(auc))
