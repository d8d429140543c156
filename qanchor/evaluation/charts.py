"""The pictures of a bench: bars by method, curves of studies, attention, gradients, clouds of users, as data URIs.

As plots.py has it: no background, colours that stand out on white and on near-black, and no meaning on colour alone.
Ours are in colour, all else is grey.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qanchor.evaluation.plots import FILLS, INK, NEGATIVE, POINTS, POSITIVE, STYLE, Array, planes, uri
from qanchor.evaluation.standings import Standing
from qanchor.evaluation.studies import DEFAULT, Findings
from qanchor.evaluation.table import number

GREY = "#b0b0b0"
HUES = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#0072b2", "#d55e00")
WIDTH = 3.4
"""Inches of a panel: about a phone's width, so that its letters are read as they are."""
LEAST = 0.02
"""Height of an axis of scores at least: a thousandth is not to look like a step."""
SMOOTH = 9
"""Steps of pretraining over which a curve is averaged."""


def bars(rows: Sequence[Standing], metric: str, scenario: str | None) -> str:
    """One metric of a scenario (None: of the average), a bar a row, in the given order from the top. SVG."""
    cells = [row.scenarios[scenario] if scenario else row.average for row in rows]
    values = np.array([cell[metric] for cell in cells])
    spreads = np.array([cell[f"{metric}_spread"] for cell in cells])
    with mpl.rc_context(STYLE):
        figure, axes = _panel(0.35 + 0.165 * len(rows))
        for place, (row, value, spread) in enumerate(zip(rows, values, spreads, strict=True)):
            if isfinite(value):
                axes.barh(place, value, 0.74, color=_fill(row.row))
                if spread:
                    axes.plot([value - spread, value + spread], [place, place], color=INK, lw=1)
            axes.text(1.02, place, number(value), transform=axes.get_yaxis_transform(), va="center", fontsize=8)
        axes.set_yticks(range(len(rows)), [row.row for row in rows])
        for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
            tick.set_fontweight("bold" if row.row in FILLS and row.row != "counts" else "normal")
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, max(0.1, float(np.nanmax([*(values + spreads), 0.1])) * 1.04))
        axes.spines["left"].set_color(INK)
        return uri(figure, "svg")


def _fill(row: str) -> str:
    return FILLS[row] if row in ("base", "tuned") else GREY


def curves(found: Findings, metric: str) -> str:
    """Average score by the knob's settings, evenly spaced, a line a kind and curve; whiskers are the seeds'. SVG."""
    study = found.study
    ticks = sorted({point.x for point in study.points})
    dashes = dict(zip(dict.fromkeys(point.curve for point in study.points), ("-", (0, (3, 1.5))), strict=False))
    drawn: list[float] = []
    with mpl.rc_context(STYLE):
        figure, axes = _panel(2.3)
        for kind, rows in found.tables.items():
            for curve, dash in dashes.items():
                placed = [
                    (ticks.index(point.x), row) for row in rows if (point := found.point(row)) and point.curve == curve
                ]
                placed.sort(key=lambda place: place[0])
                x, y, spread = (
                    np.array([at for at, _ in placed]),
                    np.array([row.average[metric] for _, row in placed]),
                    np.array([row.average[f"{metric}_spread"] for _, row in placed]),
                )
                label = f"{kind}, {curve}" if curve else kind
                axes.errorbar(
                    x, y, spread, color=FILLS[kind], ls=dash, marker="o", ms=4, lw=1.5, elinewidth=0.9, label=label
                )
                drawn += [*(y - spread), *(y + spread)]
                own = [at for at, (_, row) in enumerate(placed) if row.row.endswith(DEFAULT)]
                axes.plot(x[own], y[own], "o", ms=9, mfc="none", mec=FILLS[kind])
        low, high = float(np.nanmin(drawn)), float(np.nanmax(drawn))
        slack = max(0.08 * (high - low), (LEAST - high + low) / 2)
        axes.set_ylim(low - slack, high + slack)
        axes.set_xticks(range(len(ticks)), [f"{tick:g}" for tick in ticks])
        axes.set_xlim(-0.3, len(ticks) - 0.7)
        axes.set_xlabel(study.knob)
        axes.set_ylabel(f"average {metric.upper()}")
        _frame(axes)
        if len(found.tables) * len(dashes) > 1:
            figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
        return uri(figure, "svg")


def shift(base: Mapping[str, float], tuned: Mapping[str, float]) -> str:
    """A scenario's shares of attention by modality: base above tuned, and by how many percent a share changed. SVG."""
    with mpl.rc_context(STYLE):
        figure, axes = _panel(0.4 + 0.34 * len(base))
        for place, name in enumerate(base):
            axes.barh(place - 0.19, base[name], 0.34, color=GREY)
            axes.barh(place + 0.19, tuned[name], 0.34, color=FILLS["tuned"])
            change = f"{tuned[name] / base[name] - 1:+.1%}" if base[name] else "–"
            axes.text(1.02, place, change, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
        axes.set_yticks(range(len(base)), list(base))
        axes.set_ylim(len(base) - 0.5, -0.5)
        axes.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, 0))
        axes.spines["left"].set_color(INK)
        return uri(figure, "svg")


def gradients(lines: Mapping[str, Sequence[float]], align: int) -> str:
    """Length of the gradient step by step, a line a model, smoothed; the backbone opens after `align` steps. SVG."""
    with mpl.rc_context(STYLE):
        figure, axes = _panel(2.6)
        for n, (name, norms) in enumerate(lines.items()):
            width = min(SMOOTH, len(norms))
            mean = np.convolve(norms, np.ones(width) / width, "valid")
            axes.plot(np.arange(len(mean)) + width / 2, mean, color=HUES[n % len(HUES)], lw=1.3, label=name)
        if 0 < align < max(map(len, lines.values())):
            axes.axvline(align, color=INK, lw=0.8, ls=(0, (2, 2)))
            axes.text(
                align, 1, "backbone opens ", transform=axes.get_xaxis_transform(), ha="right", va="top", fontsize=8
            )
        axes.set_yscale("log")
        axes.set_xlabel("step of pretraining")
        axes.set_ylabel("length of the gradient")
        _frame(axes)
        figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
        return uri(figure, "svg")


def clouds(features: Array, label: Array, seed: int = 0) -> dict[str, str]:
    """Test users in the plane, by their label: "t-SNE" and "PCA" of [N, O] features; as many of each class. PNG.

    At most POINTS of a class; [N] labels are 0, 1, NaN.
    """
    random = np.random.default_rng(seed)
    classes = [random.permutation(np.flatnonzero(label == value)) for value in (0, 1)]
    size = min(POINTS, *map(len, classes))
    drawn = random.permutation(np.concatenate([rows[:size] for rows in classes]))
    if len(drawn) < 4:
        return {}
    colours = np.where(label[drawn] == 1, POSITIVE, NEGATIVE)
    pictures = {}
    for method, points in planes(features[drawn].astype(np.float32)).items():
        figure = Figure(figsize=(1.7, 1.7))
        axes = figure.add_axes((0.02, 0.02, 0.96, 0.96))
        axes.scatter(points[:, 0], points[:, 1], s=6, c=colours, alpha=0.8, lw=0)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_color(INK)
        axes.spines[:].set_linewidth(0.4)
        pictures[method] = uri(figure, "png")
    return pictures


def _panel(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[:].set_visible(False)
    axes.spines["left"].set_visible(True)
    axes.tick_params(length=0)
    return figure, axes


def _frame(axes: Axes) -> None:
    axes.spines[:].set_visible(False)
    axes.spines[["left", "bottom"]].set_visible(True)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.grid(axis="y", color=INK, alpha=0.25, lw=0.6)
    axes.tick_params(length=0, which="both")
