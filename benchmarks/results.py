"""Write docs/results.md from the results.json of finished runs, and keep those beside it.

    python benchmarks/results.py runs/demo runs/travel runs/pcard runs/retail runs/oulad

What stands above the marker in the page is written by hand and stays.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "results.md"
MARKER = "<!-- tables: python benchmarks/results.py RUNS... -->"


def section(results: dict[str, Any]) -> str:
    """One data set: its command, sizes, and both tables."""
    sizes = ", ".join(f"{count:,} {what}" for what, count in results["sizes"].items())
    total = sum(results["seconds"].values())
    stages = ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in results["seconds"].items())
    lines = [
        f"## {results['data']}",
        "",
        f"`{results['command']}` · {sizes} · {results['hardware']} · {results['date']} · {total:.0f} s ({stages})",
    ]
    for metric in ("auc", "ks"):
        lines += ["", *table(results, metric)]
    return "\n".join(lines)


def table(results: dict[str, Any], metric: str) -> list[str]:
    """A Markdown table of one metric; the best column that is not the oracle in bold."""
    columns = list(results["average"])
    lines = [f"| {metric.upper()} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in [*results["scenarios"].items(), ("**average**", results["average"])]:
        values = {column: row[column][metric] for column in columns}
        best = max((column for column in columns if column != "oracle"), key=lambda column: values[column] or 0)
        cells = []
        for column, value in values.items():
            spread = row[column].get(f"{metric}_spread")
            text = (
                "-" if value is None else f"{value:.3f}" + (f" ±{spread:.3f}" if spread and column != "oracle" else "")
            )
            cells.append(f"**{text}**" if column == best else text)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def main(runs: list[Path]) -> None:
    sections = []
    for run in runs:
        results = json.loads((run / "results.json").read_text())
        shutil.copy(run / "results.json", ROOT / "benchmarks" / "results" / f"demo-{results['data']}.json")
        sections.append(section(results))
    above = PAGE.read_text(encoding="utf-8").split(MARKER)[0].rstrip()
    PAGE.write_text("\n\n".join([above, MARKER, *sections]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
