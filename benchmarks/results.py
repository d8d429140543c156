"""Write docs/results.md from finished benches, and keep their results.json beside the other measurements.

    python benchmarks/results.py runs/wallet runs/travel runs/pcard runs/retail runs/oulad

Each is a run folder of `qanchor bench`, whose `bench/results.md` holds the tables. Above them come tables of averages,
a column a data set. What stands above the marker in the page is written by hand and stays.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qanchor.evaluation.differences import Difference
from qanchor.evaluation.standings import METRICS
from qanchor.evaluation.studies import STUDIES
from qanchor.evaluation.table import number

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "results.md"
MARKER = "<!-- tables: python benchmarks/results.py RUNS... -->"

Row = dict[str, Any]


def main(runs: list[Path]) -> None:
    benches, sections = {}, []
    for run in runs:
        told = run / "bench" / "results.json"
        bench = json.loads(told.read_text(encoding="utf-8"))
        benches[bench["data"]] = bench
        shutil.copy(told, ROOT / "benchmarks" / "results" / f"bench-{bench['data']}.json")
        page = (run / "bench" / "results.md").read_text(encoding="utf-8").strip()
        sections.append("\n".join("#" * line.startswith("#") + line for line in page.splitlines()))
    above = PAGE.read_text(encoding="utf-8").split(MARKER)[0].rstrip()
    PAGE.write_text("\n\n".join([above, MARKER, *overview(benches), *sections]) + "\n", encoding="utf-8")


def overview(benches: Mapping[str, Any]) -> list[str]:
    """Averages over the scenarios of every row, and of every point of every study."""
    whole = {data: bench["rows"] for data, bench in benches.items()}
    found = [
        "## All rows, all data sets\n\nAverage AUC / KS over the scenarios on test users (seeds); * what differs from "
        "`tuned` beyond the chance of meeting these test users.",
        across(whole),
    ]
    for name, study in STUDIES.items():
        for kind in study.kinds:
            parts = {data: bench["studies"].get(name, {}).get(kind, []) for data, bench in benches.items()}
            known = {data: rows for data, rows in parts.items() if rows}
            if known:
                found += [
                    f"### {study.title}: `{kind}`\n\n{study.note} * what differs from our model as it is, same seeds, "
                    "beyond chance.",
                    across(known),
                ]
    return found


def across(rows: Mapping[str, Sequence[Row]]) -> str:
    """Rows by data sets, in the order of the data set that has most of them."""
    longest_first = sorted(rows.values(), key=len, reverse=True)
    names = list(dict.fromkeys(row["row"] for found in longest_first for row in found))
    each = {data: {row["row"]: row for row in found} for data, found in rows.items()}
    lines = ["| | " + " | ".join(each) + " |", "|---" * (len(each) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(_cell(of.get(name)) for of in each.values()) + " |" for name in names]
    return "\n".join(lines)


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    return " / ".join(_score(row, metric) for metric in METRICS) + f" ({row['seeds']})"


def _score(row: Row, metric: str) -> str:
    apart = row["apart"].get(metric)
    return number(row["average"][metric]) + "*" * (apart is not None and Difference(**apart).real)


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
