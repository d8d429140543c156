"""`report.html` of a bench: its tables, studies and figures as one page that needs nothing else.

Made from finished units alone, so that it can be written again whenever another one ends. Figure numbers are the
paper's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from qanchor.evaluation import charts, page, plots
from qanchor.evaluation.bench import Bench, Outcome
from qanchor.evaluation.bench_tables import scores, scores_table
from qanchor.evaluation.standings import METRICS, Standing
from qanchor.evaluation.studies import OURS, Findings
from qanchor.evaluation.table import number

ABLATION = "w/o "
"""How the rows of Tables 3 and 6 begin; the bars leave them to the tables."""


def write(
    path: Path, bench: Bench, rows: Sequence[Standing], studies: Mapping[str, Findings], told: Mapping[str, Any]
) -> None:
    """Write the page, replaced atomically.

    Args:
        bench: where units are looked up.
        rows: of the tables; where there is none, the page says so.
        studies: those of which something is finished.
        told: data, command, hardware, date, sizes, failed: as in `results.json`.
    """
    parts = [
        scores(bench, rows),
        _bars(rows),
        *(_study(found) for found in studies.values()),
        _attention(bench),
        _gradients(bench, studies),
        _clouds(bench, rows),
        _guide(rows),
    ]
    page.write(
        path,
        f"{told['data']}: the bench",
        _origin(told),
        _failed(told) + ("".join(parts) or "<p>Nothing is finished yet.</p>"),
    )


def _origin(told: Mapping[str, Any]) -> str:
    sizes = ", ".join(f"{count:,} {what}" for what, count in told["sizes"].items())
    facts = " · ".join(escape(part) for part in (told["date"], sizes, told["hardware"]))
    return f"{facts}<br>last written by\n<code>{escape(told['command'])}</code>"


def _failed(told: Mapping[str, Any]) -> str:
    return "".join(
        f'<p class="warning">{escape(name)} did not run: {escape(why)}</p>' for name, why in told["failed"].items()
    )


def _bars(rows: Sequence[Standing]) -> str:
    shown = [row for row in rows if not row.row.startswith(ABLATION)]
    if len(shown) < 2:
        return ""
    shown.sort(key=lambda row: -np.nan_to_num(row.average["ks"]))
    names = [name for name in shown[0].scenarios if all(isfinite(row.scenarios[name]["ks"]) for row in shown)]
    panels = [
        _panel(charts.bars(shown, "ks", name), name or "Average", _spoken(shown, name)) for name in (None, *names)
    ]
    return _figure(
        "KS by scenario (Figure 5)",
        "panels",
        panels,
        "KS, longer is better: each panel a scenario, the first the average, the rows in the order of the average in "
        "all of them. In colour ours, base lighter than tuned; grey the others. A bar that sticks out of the staircase "
        "is a method that suits this scenario better than the others. Thin lines: one standard deviation over seeds.",
    )


def _spoken(rows: Sequence[Standing], name: str | None) -> str:
    told = ", ".join(f"{row.row} {number((row.scenarios[name] if name else row.average)['ks'])}" for row in rows)
    return f"KS, {name or 'average'}: {told}"


def _study(found: Findings) -> str:
    panels = []
    for metric in METRICS:
        told = "; ".join(
            f"{kind}: " + ", ".join(f"{row.row} {number(row.average[metric])}" for row in rows)
            for kind, rows in found.tables.items()
        )
        panels.append(_panel(charts.curves(found, metric), metric.upper(), f"Average {metric.upper()}, {told}"))
    tables = "".join(
        scores_table(rows, metric, f"{kind}, {metric.upper()}")
        for kind, rows in found.tables.items()
        for metric in METRICS
    )
    caption = (
        f"{found.study.note} A rising line says that more of it helps; whiskers are one standard deviation over seeds, "
        "the ring is our model as it is. Settings are evenly spaced, whatever lies between them."
    )
    return _figure(found.study.title, "pair charts", panels, caption) + tables


def _attention(bench: Bench) -> str:
    shares = [outcome.measured["attention"] for outcome in _finished(bench, OURS) if "attention" in outcome.measured]
    if not shares:
        return ""
    panels = []
    for name in bench.field.labels:
        base, tuned = (
            {m: float(np.mean([of[kind][name][m] for of in shares])) for m in shares[0][kind][name]}
            for kind in ("base", "tuned")
        )
        told = ", ".join(f"{m} {base[m]:.1%} to {tuned[m]:.1%}" for m in base)
        panels.append(_panel(charts.shift(base, tuned), name, f"Attention, {name}: {told}"))
    return _figure(
        "Where <USER_EMB> looks, before and after tuning (Figure 7)",
        "panels",
        panels,
        "Share of the attention to the prefix that each modality gets, mean over test users: grey above for base, blue "
        "below for tuned, and on the right by how many percent tuning changed it. A modality that "
        "grows is one that the scenario's soft prompt has the model look at more. Attention tells where a model looks, "
        "not what it makes of it.",
    )


def _gradients(bench: Bench, studies: Mapping[str, Findings]) -> str:
    if "model" not in studies:
        return ""
    rows = next(iter(studies["model"].tables.values()))
    told = {row.row: gradient for row in rows if (gradient := _gradient(bench, row.method))}
    if len(told) < 2:
        return ""
    norms = {name: gradient["norm"] for name, gradient in told.items()}
    picture = charts.gradients(norms, next(iter(told.values()))["align"])
    spoken = ", ".join(f"{name} {np.mean(norm[-charts.SMOOTH :]):.2g} at the end" for name, norm in norms.items())
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{g["mean"]:.2e}</td><td>{g["max"]:.2e}</td></tr>'
        for name, g in told.items()
    )
    table = f"""<div class="scroll"><table class="narrow"><caption>|g| in the last step</caption>
<thead><tr><th scope="col"></th><th scope="col">mean</th><th scope="col">maximum</th></tr></thead>
<tbody>{body}</tbody></table></div>"""
    return (
        _figure(
            "Gradient by model size (Figure 11)",
            "charts",
            [_panel(picture, "", f"Length of the gradient: {spoken}")],
            "Length of the gradient over the first steps of pretraining, by the backbone's width x layers, first seed, "
            f"mean over {charts.SMOOTH} steps, on a log scale. The paper sees gradients shrink as models grow, and "
            "takes that for the reason why its larger ones gain nothing. The table's numbers are per parameter.",
        )
        + table
    )


def _gradient(bench: Bench, method: str) -> dict[str, Any]:
    first = next(iter(_finished(bench, method)), None)
    return first.measured.get("gradient", {}) if first else {}


def _finished(bench: Bench, method: str) -> list[Outcome]:
    """Of the chosen setting, seed by seed."""
    chosen = bench.chosen(method)
    units = [chosen, *bench.rest([method], len(bench.methods[method].seeds))] if chosen else []
    return [outcome for unit in units if unit and (outcome := bench.outcome(unit))]


def _clouds(bench: Bench, rows: Sequence[Standing]) -> str:
    shown = [row for row in rows if row.row in ("untrained", "base", "tuned")]
    shown[1:1] = _best_baseline(bench, rows)
    if not any(row.row in ("base", "tuned") for row in shown):
        return ""
    test, figures = bench.field.test, ""
    for name, label in bench.field.labels.items():
        panels: dict[str, list[str]] = {"t-SNE": [], "PCA": []}
        for row in shown:
            unit = bench.chosen(row.method)
            kept = bench.kept(unit, row.row) if unit else {}
            if not unit or not kept:
                continue
            told = f"{row.row}, AUC {number(row.scenarios[name]['auc'])}"
            for plane, picture in charts.clouds(bench.array(unit, kept[name])[test], label[test]).items():
                panels[plane].append(_panel(picture, f"{plane} · {told}", f"{plane} of {name}, {told}"))
        if panels["PCA"]:
            figures += f"<h3>{escape(name)}</h3>" + "".join(
                f'<div class="clouds">{"".join(of)}</div>' for of in panels.values()
            )
    return (
        f"""<section><h2>Maps of the test users (Figures 9 and 12)</h2>
<p class="quiet"><b style="color:{plots.POSITIVE}">●</b> positive, <b style="color:{plots.NEGATIVE}">●</b> negative; as
many of each, at most {plots.POINTS}, first seed. Colours that lie apart say that a straight line can tell them; a map
shows two dimensions of many, so where it mixes them, trust the AUC. Baselines have one embedding for all scenarios,
ours one for each.</p>{figures}</section>"""
        if figures
        else ""
    )


def _best_baseline(bench: Bench, rows: Sequence[Standing]) -> list[Standing]:
    """The row that is not ours with the highest average AUC of those whose embeddings were kept."""
    others = [row for row in rows if not bench.methods[row.method].ours]
    known = [row for row in others if (unit := bench.chosen(row.method)) and bench.kept(unit, row.row)]
    return [max(known, key=lambda row: np.nan_to_num(row.average["auc"]))] if known else []


def _guide(rows: Sequence[Standing]) -> str:
    if not rows:
        return ""
    units = "".join(
        f'<tr><th scope="row">{escape(row.row)}</th><td>{row.seeds}</td><td>{row.seconds:,.0f}</td>'
        f"<td>{escape(', '.join(f'{key} {value}' for key, value in row.setting.items()))}</td></tr>"
        for row in rows
    )
    return f"""<h2>How to read this</h2>
<p>Every method is fitted on the same training users and judged alike: logistic regression on its frozen features, the
regularisation chosen on validation users, scored on test users, who are other people at a later time. AUC is the chance
that a positive scores above a negative (.5 is a coin, 1 is perfect); KS is the largest distance between the scores'
distributions of the two classes (0 to 1). <i>base</i> is our model asked by each scenario's question, no label used;
<i>tuned</i> adds what training users' labels say: a few learned vectors a scenario, and a readout.</p>
<div class="scroll"><table class="narrow"><caption>Units, and processor seconds of one</caption>
<thead><tr><th scope="col"></th><th scope="col">seeds</th><th scope="col">seconds</th>
<th scope="col">setting</th></tr></thead><tbody>{units}</tbody></table></div>"""


def _figure(title: str, kind: str, panels: Sequence[str], caption: str) -> str:
    return f"""<section><h2>{escape(title)}</h2><figure class="group"><figcaption>{escape(caption)}</figcaption>
<div class="{kind}">{"".join(panels)}</div></figure></section>"""


def _panel(picture: str, title: str, description: str) -> str:
    head = f"<h3>{escape(title)}</h3>" if title else ""
    return f'<div class="panel">{head}<img src="{picture}" alt="{escape(description)}"></div>'
