"""Where the methods of a bench stand: Tables 2, 3, 5 and 6 for one data set, as JSON and Markdown.

A cell is the mean over seeds, ± the standard deviation over them. The last columns compare averages with the reference
(`tuned`; a row of our own model with the same seeds of it), and say by a paired bootstrap over test users whether the
difference is real (differences.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np

from qanchor.evaluation.bench import Array, Bench, Outcome, Unit
from qanchor.evaluation.differences import Difference, differences, spread
from qanchor.evaluation.table import number

METRICS = ("auc", "ks")
REFERENCE = "tuned"


@dataclass(frozen=True)
class Standing:
    """One row of the tables."""

    row: str
    method: str
    setting: dict[str, Any]
    seeds: int
    seconds: float
    """Processor seconds of a unit, mean over the seeds."""
    scenarios: dict[str, dict[str, float]]
    """scenario -> auc, auc_spread, ks, ks_spread; NaN where there is no score."""
    average: dict[str, float]
    """Likewise, of the averages over scenarios."""
    apart: dict[str, Difference]
    """auc, ks: this row's average less the reference's; empty for the reference."""


def standings(
    bench: Bench, names: Sequence[str], seeds: int, rows: Collection[str] | None = None, reference: str = REFERENCE
) -> list[Standing]:
    """Rows of all methods of which a unit is finished, in the order of `names`; of these `rows` only, if given.

    All are compared with `reference`; with the row of the highest average AUC where that one is not there.
    """
    found: dict[str, list[Outcome]] = {}
    scores: dict[str, dict[str, list[Array]]] = {}
    for name in names:
        units = [unit for unit in (bench.chosen(name), *bench.rest([name], seeds)) if unit]
        done = [outcome for unit in units if (outcome := bench.outcome(unit))]
        for row in done[0].rows if done else ():
            if rows is not None and row not in rows:
                continue
            found[row] = done
            scores[row] = _by_scenario(bench, [outcome.unit for outcome in done], row)
    if not found:
        return []
    averages = {row: _mean(done, row) for row, done in found.items()}
    if reference not in found:
        reference = max(averages, key=lambda row: averages[row]["auc"])
    test = bench.field.test
    labels = {name: y[test] for name, y in bench.field.labels.items()}
    seeds_of = {row: [outcome.unit.seed for outcome in done] for row, done in found.items()}
    paired = {
        row: [seeds_of[reference].index(seed) for seed in own]
        for row, own in seeds_of.items()
        if bench.methods[found[row][0].unit.method].ours and set(own) <= set(seeds_of[reference])
    }
    apart = differences(scores, labels, bench.field.users[test], reference, paired)
    return [
        Standing(
            row,
            done[0].unit.method,
            dict(done[0].unit.setting),
            len(done),
            round(float(np.mean([outcome.seconds for outcome in done])), 1),
            {name: _cell([outcome.rows[row][name] for outcome in done]) for name in bench.field.labels},
            averages[row],
            apart.get(row, {}),
        )
        for row, done in found.items()
    ]


def _by_scenario(bench: Bench, units: Sequence[Unit], row: str) -> dict[str, list[Array]]:
    each = [bench.scores(unit, row) for unit in units]
    return {name: [scores[name] for scores in each] for name in bench.field.labels}


def _cell(told: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean and spread over the seeds of one scenario."""
    cell: dict[str, float] = {}
    for metric in METRICS:
        values = [nan if of[metric] is None else float(of[metric]) for of in told]
        cell |= {metric: float(np.mean(values)), f"{metric}_spread": spread(values)}
    return cell


def _mean(done: Sequence[Outcome], row: str) -> dict[str, float]:
    """Mean and spread over the seeds of the average over scenarios."""
    mean: dict[str, float] = {}
    for metric in METRICS:
        each = [[of[metric] for of in outcome.rows[row].values() if of[metric] is not None] for outcome in done]
        values = [float(np.mean(known)) if known else nan for known in each]
        mean |= {metric: float(np.mean(values)), f"{metric}_spread": spread(values)}
    return mean


def as_json(found: Sequence[Standing], told: Mapping[str, Any]) -> dict[str, Any]:
    """Plain dictionaries; a number that does not exist is null."""
    return {**told, "rows": [_plain(asdict(standing)) for standing in found]}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not isfinite(value) else value


def markdown(found: Sequence[Standing], told: Mapping[str, Any]) -> str:
    """Both tables, with what was run above them and the settings that were chosen below."""
    sizes = ", ".join(f"{count:,} {what}" for what, count in told["sizes"].items())
    lines = [f"# {told['data']}", "", f"`{told['command']}` · {sizes} · {told['hardware']} · {told['date']}"]
    for metric in METRICS:
        lines += ["", *table(found, metric)]
    reference = next((standing.row for standing in found if not standing.apart), "")
    lines += [
        "",
        f"± is the standard deviation over seeds. The last column is the average less that of `{reference}` (for rows "
        "of our own model: of the same seeds), with the middle 95% of 1,000 paired bootstraps of the test users; * "
        "where they lie on one side of zero.",
        "",
        "| row | seeds | processor seconds a unit | setting |",
        "|---|---|---|---|",
    ]
    for s in found:
        setting = ", ".join(f"{key} {value}" for key, value in s.setting.items())
        lines.append(f"| {s.row} | {s.seeds} | {s.seconds:.0f} | {setting} |")
    return "\n".join(lines) + "\n"


def table(found: Sequence[Standing], metric: str) -> list[str]:
    """Lines of Markdown: rows by scenarios, their average, and the difference to the reference."""
    names = list(found[0].scenarios)
    lines = [
        "| " + " | ".join([metric.upper(), *names, "average", "difference"]) + " |",
        "|---" * (len(names) + 3) + "|",
    ]
    best = {name: max(found, key=lambda s: np.nan_to_num(s.scenarios[name][metric])).row for name in names}
    top = max(found, key=lambda s: np.nan_to_num(s.average[metric])).row
    for s in found:
        cells = [_bold(_pm(s.scenarios[name], metric), best[name] == s.row) for name in names]
        cells += [_bold(_pm(s.average, metric), top == s.row), _apart(s.apart.get(metric))]
        lines.append(f"| {s.row} | " + " | ".join(cells) + " |")
    return lines


def _pm(cell: Mapping[str, float], metric: str) -> str:
    told = number(cell[metric])
    return f"{told} ±{number(cell[f'{metric}_spread'])}" if cell[f"{metric}_spread"] else told


def _bold(text: str, is_best: bool) -> str:
    return f"**{text}**" if is_best else text


def _apart(d: Difference | None) -> str:
    if d is None:
        return ""
    return f"{number(d.mean, True)} ({number(d.low, True)} to {number(d.high, True)}){'*' if d.real else ''}"


def save(found: Sequence[Standing], told: Mapping[str, Any], folder: Path, more: str = "") -> None:
    """`results.json` and `results.md`, replaced atomically; `more` Markdown goes behind the tables."""
    texts = {"results.json": json.dumps(as_json(found, told), indent=1, ensure_ascii=False) + "\n"}
    texts["results.md"] = (markdown(found, told) if found else "nothing finished yet\n") + more
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        fresh = folder / f"{name}.tmp"
        fresh.write_text(text, encoding="utf-8")
        os.replace(fresh, folder / name)
