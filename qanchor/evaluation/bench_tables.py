"""The tables of a bench's page: rows by scenarios with their average, and what is to be said of them.

A table scrolls within its own box, its first column stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from qanchor.evaluation.bench import Bench
from qanchor.evaluation.standings import METRICS, REFERENCE, Standing
from qanchor.evaluation.table import number


def scores(bench: Bench, rows: Sequence[Standing]) -> str:
    if not rows:
        return ""
    reference = next((row.row for row in rows if not row.apart), "")
    return f"""{_headline(bench, rows)}
<h2>Scores on test users (Tables 2, 3, 5 and 6)</h2>
{"".join(scores_table(rows, metric, metric.upper()) for metric in METRICS)}
<p class="quiet">Small: the standard deviation over seeds. The column of differences is the average less that of
<i>{escape(reference)}</i> (for rows of our own model: of the same seeds), with the middle 95% of 1,000 paired
bootstraps of the test users; a star where they lie on one side of zero. In colour: the best of a column.</p>"""


def _headline(bench: Bench, rows: Sequence[Standing]) -> str:
    """How `tuned` stands against the best row that is not ours."""
    tuned = next((row for row in rows if row.row == REFERENCE), None)
    others = [row for row in rows if not bench.methods[row.method].ours]
    if tuned is None or not others or not tuned.scenarios:
        return ""
    sentences = []
    for metric in METRICS:
        best = max(others, key=lambda row: np.nan_to_num(row.average[metric]))
        ahead = tuned.average[metric] - best.average[metric]
        sure = "more than the luck of the draw" if best.apart[metric].real else "within the luck of the draw"
        sentences.append(
            f"Average {metric.upper()}: <b>{number(tuned.average[metric])}</b> for <i>tuned</i>, "
            f"{number(best.average[metric])} for <i>{escape(best.row)}</i>, the best row that is not ours: "
            f"{number(ahead, True)}, {sure} among test users."
        )
    return f"<p>{' '.join(sentences)}</p>"


def scores_table(rows: Sequence[Standing], metric: str, caption: str) -> str:
    names = list(rows[0].scenarios)
    columns = ["average", "difference", *names]
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    best = [
        _best([row.average[metric] for row in rows]),
        *(_best([row.scenarios[n][metric] for row in rows]) for n in names),
    ]
    body = ""
    for place, row in enumerate(rows):
        average, *each = (
            _cell(cell, metric, place == winner)
            for cell, winner in zip([row.average, *(row.scenarios[name] for name in names)], best, strict=True)
        )
        kind = ' class="ours"' if row.row in ("base", "tuned") else ""
        cells = "".join([average, _difference(row, metric), *each])
        body += f'<tr{kind}><th scope="row">{escape(row.row)}</th>{cells}</tr>'
    return f"""<div class="scroll wide" tabindex="0" role="region" aria-label="{escape(caption)}"><table>
<caption>{escape(caption)}</caption>
<thead><tr><th scope="col"></th>{head}</tr></thead><tbody>{body}</tbody></table></div>"""


def _best(values: Sequence[float]) -> int:
    return int(np.argmax(np.nan_to_num(values)))


def _cell(cell: Mapping[str, float], metric: str, best: bool) -> str:
    spread = cell[f"{metric}_spread"]
    small = f"<small>±{number(spread)}</small>" if spread else ""
    return f"<td{' class=best' if best else ''}>{number(cell[metric])}{small}</td>"


def _difference(row: Standing, metric: str) -> str:
    apart = row.apart.get(metric)
    if apart is None:
        return "<td>–</td>"
    star, middle = "*" if apart.real else "", f"{number(apart.low, True)} to {number(apart.high, True)}"
    return f"<td>{number(apart.mean, True)}{star}<small>{middle}</small></td>"
