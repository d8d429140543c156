"""The report's pictures: bars of the scores, and maps of the embeddings, each returned as a data URI.

They have no background, and every colour in them stands out on white and on near-black alike, so that one picture
serves a light page, a dark page and print. The hues are Okabe and Ito's, safe for the colour-blind; no meaning hangs on
colour alone.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from math import isfinite
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from qanchor.evaluation.results import ORACLE, ZERO_SHOT, Results
from qanchor.evaluation.table import number

INK = "#7a7a7a"
FILLS = {"counts": "#9a9a9a", ZERO_SHOT: "#cc79a7", "base": "#56a0d3", "tuned": "#0072b2"}
OTHER_FILL = "#009e73"
NEGATIVE, POSITIVE = "#7d9ab5", "#d55e00"
STYLE = {
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.size": 9,
    "svg.hashsalt": "qanchor",
}
POINTS = 250
"""Drawn test rows of each class."""

Array = npt.NDArray[Any]


def bars(results: Results, metric: str) -> str:
    """One metric ("auc" or "ks") of every scenario: a bar a column, the oracle as a mark, the average on top. SVG."""
    columns = [column for column in results.columns if column not in (ORACLE, "swapped")]
    rows = {"average": {column: mean[metric] for column, mean in results.average.items()}}
    rows |= {name: {c: getattr(s, metric) for c, s in row.items()} for name, row in results.scenarios.items()}
    floor = 0.5 if metric == "auc" else 0.0
    lowest = min([floor, *(v for row in rows.values() for v in row.values() if isfinite(v))])
    height = 0.78 / len(columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.1, 0.5 + 0.165 * (len(columns) + 1) * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        for place, (name, row) in enumerate(rows.items()):
            for n, column in enumerate(columns):
                y, value = place + (n - (len(columns) - 1) / 2) * height, row[column]
                if isfinite(value):
                    fill = FILLS.get(column, OTHER_FILL)
                    axes.barh(y, value - floor, height * 0.86, floor, color=fill)
                    label = f"{number(value)} {column}" if name == "average" else number(value)
                    axes.text(1.01, y, label, va="center", fontsize=8)
            if isfinite(row.get(ORACLE, np.nan)):
                axes.plot([row[ORACLE]] * 2, [place - 0.42, place + 0.42], color=INK, lw=1.2, ls=(0, (2, 1.2)))
        if isfinite(rows["average"].get(ORACLE, np.nan)):
            label = f"oracle {number(rows['average'][ORACLE])}"
            axes.text(rows["average"][ORACLE], -0.5, label, ha="center", va="bottom", fontsize=8)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.get_yticklabels()[0].set_fontweight("bold")
        axes.set_ylim(len(rows) - 0.4, -0.75)
        axes.set_xlim(lowest - 0.02 * (lowest < floor), 1.0)
        axes.axvline(floor, color=INK, lw=0.8)
        axes.set_xlabel(f"{metric.upper()} ({floor:g} is a coin)")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        return uri(figure, "svg")


def maps(embeddings: Mapping[str, Array], label: Array, seed: int = 0) -> str:
    """Rows of one scenario in the plane, coloured by label: PCA above t-SNE, a column of the grid per kind. PNG.

    Args:
        embeddings: kind (`base`, `tuned`) -> [N, O].
        label: [N] of 0, 1, NaN; both classes present. As many of each are drawn, at most POINTS.
    """
    random = np.random.default_rng(seed)
    classes = [np.flatnonzero(label == value) for value in (0, 1)]
    drawn = random.permutation(np.concatenate([random.permutation(rows)[:POINTS] for rows in classes]))
    colours = np.where(label[drawn] == 1, POSITIVE, NEGATIVE)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.25 * len(embeddings), 4.6), layout="constrained")
        grid = figure.subplots(2, len(embeddings), squeeze=False)
        for n, (kind, vectors) in enumerate(embeddings.items()):
            for axes, (method, points) in zip(grid[:, n], planes(vectors[drawn]).items(), strict=True):
                axes.scatter(points[:, 0], points[:, 1], s=8, c=colours, alpha=0.8, lw=0)
                axes.set_title(f"{kind}, {method}", fontsize=9, color=INK)
                axes.set_xticks([])
                axes.set_yticks([])
                axes.spines[:].set_color(INK)
                axes.spines[:].set_linewidth(0.4)
        return uri(figure, "png")


def planes(vectors: Array) -> dict[str, Array]:
    """Two views [N, 2] of [N, O] vectors, on one thread: on a busy machine two take ten times as long."""
    with threadpool_limits(1):
        components = PCA(min(30, *vectors.shape)).fit_transform(vectors.astype(np.float64))
        neighbours = TSNE(perplexity=min(30, len(vectors) / 4), init="pca", max_iter=400, random_state=0)
        return {"PCA": components[:, :2], "t-SNE": neighbours.fit_transform(components)}


def uri(figure: Figure, form: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, transparent=True, dpi=140, metadata={"Date": None} if form == "svg" else {})
    kind = "svg+xml" if form == "svg" else form
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
