"""Studies: one knob of our model turned, all else as it is (Tables 7-10, Figures 6 and 8).

A point whose config is the one we run anyway is our own row, and costs nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from qanchor.evaluation.bench import Bench
from qanchor.evaluation.standings import METRICS, Standing, as_json, standings, table

OURS = "qanchor"
"""The method of our model as it is configured; its rows are `base` and `tuned`."""


@dataclass(frozen=True)
class Point:
    """One setting of the knob."""

    label: str
    x: float
    changes: Mapping[str, Any]
    """Keys of the config by their dotted paths."""
    curve: str = ""
    """Points of one curve are joined by a line."""


@dataclass(frozen=True)
class Study:
    title: str
    knob: str
    """What the horizontal axis says."""
    kinds: tuple[str, ...]
    """Rows of our model that the knob can move: `base`, `tuned`."""
    points: tuple[Point, ...]
    note: str
    """What is changed, and what is not."""


STUDIES = {
    "data": Study(
        "Data scale (Table 7, Figure 6)",
        "share of training users in UserU, %",
        ("base", "tuned"),
        tuple(Point(f"{share:.0%}", 100 * share, {"useru.share": share}) for share in (0.1, 0.25, 0.5, 1.0)),
        "Pretraining sees a share of the training users, the smaller part of the larger, for as many steps as ever; "
        "soft prompts and probes have all of them. The paper changes the number of steps instead.",
    ),
    "model": Study(
        "Model scale (Table 8, Figures 6 and 11)",
        "width of the backbone",
        ("base", "tuned"),
        tuple(
            Point(
                f"{hidden} x {layers}",
                hidden,
                {"model.hidden": hidden, "model.layers": layers},
                f"{layers} layer{'s' if layers > 1 else ''}",
            )
            for layers in (1, 2)
            for hidden in (128, 256, 384)
        ),
        "The embedded backbone, width x layers; same data, steps and learning rate for all.",
    ),
    "prompts": Study(
        "Prompt tokens (Table 9, Figure 8)",
        "learned prompt vectors",
        ("tuned",),
        tuple(Point(str(count), count, {"model.prompt_tokens": count}) for count in (1, 2, 4, 6, 8, 16)),
        "Each number is pretrained for itself: pretraining learns a shared prompt of as many vectors, which every "
        "scenario's own starts from.",
    ),
    "steps": Study(
        "Tuning steps (Table 10, Figure 8)",
        "steps of tuning",
        ("tuned",),
        tuple(Point(str(steps), steps, {"training.tune.steps": steps}) for steps in (100, 200, 300, 400, 500)),
        "One pretrained model, its soft prompts tuned for longer; the learning rate falls to zero over the steps there "
        "are, and of each scenario the prompt with the lowest loss on validation users is kept.",
    ),
}


@dataclass(frozen=True)
class Findings:
    """What is finished of a study."""

    study: Study
    tables: dict[str, list[Standing]]
    """kind -> a row a point, named by its label; differences are to our model as it is configured."""

    def point(self, standing: Standing) -> Point | None:
        """Whose row it is; None for our model where it is no point of the study."""
        return next((point for point in self.study.points if point.label == standing.row.removesuffix(DEFAULT)), None)


DEFAULT = " (as it is)"


def findings(bench: Bench, study: Study, methods: Sequence[str], seeds: int) -> Findings | None:
    """A study's finished rows; None where there are not two of a kind.

    Args:
        methods: of each point; our own is compared with, whether or not it is one of them.
    """
    labels = {method: point.label for method, point in zip(methods, study.points, strict=True)}
    labels[OURS] = labels.get(OURS, "our model") + DEFAULT
    names = list(labels) if OURS in methods else [OURS, *methods]
    tables = {}
    for kind in study.kinds:
        rows = {name: row_of(name, kind) for name in names}
        found = standings(bench, names, seeds, rows.values(), kind)
        if len(found) > 1:
            tables[kind] = [replace(standing, row=labels[standing.method]) for standing in found]
    return Findings(study, tables) if tables else None


def row_of(method: str, kind: str) -> str:
    """The row in which a method of a study tells a kind."""
    return kind if method == OURS else f"{method}, {kind}"


def markdown(found: Mapping[str, Findings]) -> str:
    """The tables of all studies, for the end of `results.md`."""
    lines = []
    for part in found.values():
        lines += ["", f"## {part.study.title}", "", part.study.note]
        for kind, rows in part.tables.items():
            tables = ([f"`{kind}`, {metric.upper()}", "", *table(rows, metric)] for metric in METRICS)
            lines += chain.from_iterable(["", *lines_of_one] for lines_of_one in tables)
    return "\n".join([*lines, ""]) if lines else ""


def plain(found: Mapping[str, Findings]) -> dict[str, Any]:
    """study -> kind -> rows, for `results.json`."""
    return {
        name: {kind: as_json(rows, {})["rows"] for kind, rows in part.tables.items()} for name, part in found.items()
    }
