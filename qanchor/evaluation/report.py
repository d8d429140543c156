"""`report.html`: the results as one page that needs nothing else, on a desk, on a phone, in the dark and on paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qanchor.evaluation import page, plots
from qanchor.evaluation.results import ORACLE, ZERO_SHOT, Results
from qanchor.evaluation.table import best, gap, number, unscored

Array = npt.NDArray[Any]

MEANING = {
    "counts": "Hand-made features: events per modality and category in 7 days, 30 days and the whole lookback window, "
    "days since the last, sums of amounts. The row to beat.",
    ZERO_SHOT: "How much nearer a user's base embedding lies to what a yes says than to what a no says: no probe is "
    "fitted, and no label is used at all.",
    "base": "The model's embeddings, each scenario anchored by its own query; no label was used to make them.",
    "swapped": "The same embeddings, but each scenario is probed on those of another scenario's query. What base has "
    "above it is what the query is worth.",
    "tuned": "As base, with a few soft-prompt vectors a scenario learned from training labels; the model is frozen.",
    "oracle": "The true probability by which the simulator drew each label: no method can do better, save by luck.",
}


def write(
    path: Path,
    results: Results,
    embeddings: Mapping[str, Mapping[str, Array]],
    labels: Mapping[str, Array],
    split: Array,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write the page, replaced atomically.

    Args:
        path: of the file, `runs/demo/report.html`.
        results: what the page is about.
        embeddings: kind -> scenario -> [N, O], drawn side by side; kinds are columns of the results.
        labels: scenario -> [N] of 0, 1, NaN.
        split: [N]; only test rows are drawn.
        progress: told 1 after each scenario's maps.
    """
    test = split == "test"
    figures = []
    for name, row in results.scenarios.items():
        if all(isfinite(score.auc) for score in row.values()):
            picture = plots.maps({kind: of[name][test] for kind, of in embeddings.items()}, labels[name][test])
            aucs = ", ".join(f"{kind} {number(row[kind].auc)}" for kind in embeddings)
            figures.append(_figure(picture, f"maps of {name}", f"AUC {aucs}", name))
        if progress:
            progress(1)

    title = f"{results.data}: {len(results.scenarios)} scenarios"
    page.write(path, title, _origin(results), _body(results, "".join(figures)))


def _body(results: Results, figures: str) -> str:
    warnings = "".join(f'<p class="warning">No score for {escape(line)}</p>' for line in unscored(results))
    charts = "".join(_figure(plots.bars(results, metric), f"{metric.upper()} bars") for metric in ("auc", "ks"))
    return f"""<p>{_headline(results)}</p>
{warnings}
<h2>Scores on test users</h2>
<div class="pair">{_table(results, "auc")}{_table(results, "ks")}</div>
<p class="quiet">Small figures: the spread (one standard deviation) when the probe is fitted on three bootstraps of the
training users. It says nothing about chance among the test users. In colour: the best column, the oracle aside.</p>
<div class="pair charts">{charts}</div>
<h2>How to read this</h2>
{_guide(results)}
<h2>Maps of the test users</h2>
<p class="quiet"><b style="color:{plots.POSITIVE}">●</b> positive, <b style="color:{plots.NEGATIVE}">●</b> negative; at
most {plots.POINTS} rows of each, whatever their true shares. A map shows two dimensions of many: the probe can tell
apart what a map mixes, so trust the AUC.</p>
<div class="maps">{figures}</div>
{_stages(results)}"""


def _origin(results: Results) -> str:
    sizes = [f"{count:,} {escape(what)}" for what, count in results.sizes.items()]
    parts = [escape(results.date), ", ".join(sizes), escape(results.hardware)]
    command = f"<br>made by <code>{escape(results.command)}</code>" if results.command else ""
    return " · ".join(part for part in parts if part) + command


def _headline(results: Results) -> str:
    """The averages as one sentence."""
    average = {column: mean["auc"] for column, mean in results.average.items()}
    parts = [f"{escape(column)} <b>{number(value)}</b>" for column, value in average.items()]
    sentence = f"Average AUC: {', '.join(parts)}."
    if "swapped" in average and isfinite(average["swapped"]):
        worth = number(average["base"] - average["swapped"], sign=True)
        sentence += f" The right query is worth {worth} (base less swapped)."
    missing = gap(average)
    if missing is not None and isfinite(missing):
        sentence += f" The oracle is {number(missing)} further on."
    return sentence


def _table(results: Results, metric: str) -> str:
    with_gap = ORACLE in results.columns
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in results.columns)
    head += '<th scope="col">to oracle</th>' if with_gap else ""
    means = {column: mean[metric] for column, mean in results.average.items()}
    body = [_row("average", means, {}, "average")]
    for name, row in results.scenarios.items():
        values = {column: getattr(score, metric) for column, score in row.items()}
        body.append(_row(name, values, {c: getattr(s, f"{metric}_spread") for c, s in row.items() if c != ORACLE}))
    return f"""<div class="scroll"><table><caption>{metric.upper()}</caption>
<thead><tr><th scope="col"></th>{head}</tr></thead>
<tbody>{"".join(body)}</tbody></table></div>"""


def _row(name: str, values: dict[str, float], spreads: dict[str, float], kind: str = "scenario") -> str:
    winner, missing = best(values), gap(values)
    cells = []
    for column, value in values.items():
        spread = spreads.get(column, np.nan)
        small = f"<small>±{number(spread)}</small>" if isfinite(spread) else ""
        kind_of_cell = ' class="best"' if column == winner else ""
        cells.append(f"<td{kind_of_cell}>{number(value)}{small}</td>")
    if missing is not None:
        cells.append(f"<td>{number(missing, sign=True)}</td>")
    return f'<tr class="{kind}"><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>'


def _guide(results: Results) -> str:
    terms = "".join(f"<dt>{c}</dt><dd>{MEANING[c]}</dd>" for c in results.columns if c in MEANING)
    return f"""<p>Every column is judged alike: logistic regression on frozen features, fitted on training users, its
regularisation chosen on validation users, scored on test users, who are other people at a later time. AUC is the chance
that a positive scores above a negative (.5 is a coin, 1 is perfect); KS is the largest distance between the scores'
distributions of the two classes (0 to 1).</p>
<dl>{terms}</dl>"""


def _stages(results: Results) -> str:
    if not results.seconds:
        return ""
    longest = max(max(results.seconds.values()), 1e-9)
    rows = "".join(
        f'<tr><th scope="row">{escape(stage)}</th><td>{seconds:,.1f}</td>'
        f'<td class="bar"><span style="width:{100 * seconds / longest:.1f}%"></span></td></tr>'
        for stage, seconds in results.seconds.items()
    )
    total = sum(results.seconds.values())
    return f"""<h2>Seconds per stage</h2>
<table class="stages"><tbody>{rows}</tbody></table><p class="quiet">{total:,.0f} s in all.</p>"""


def _figure(source: str, description: str, caption: str = "", title: str = "") -> str:
    head = f"<h3>{escape(title)}</h3>" if title else ""
    foot = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure>{head}<img src="{source}" alt="{escape(description)}">{foot}</figure>'
