"""Write docs/results.md from finished benches, and keep their results.json beside the other measurements.

    python benchmarks/results.py runs/wallet runs/travel runs/pcard runs/retail runs/oulad

Each is a run folder of `qanchor bench`, whose `bench/results.md` holds the tables. What stands above the marker in the
page is written by hand and stays.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "results.md"
MARKER = "<!-- tables: python benchmarks/results.py RUNS... -->"


def main(runs: list[Path]) -> None:
    sections = []
    for run in runs:
        told = run / "bench" / "results.json"
        name = json.loads(told.read_text(encoding="utf-8"))["data"]
        shutil.copy(told, ROOT / "benchmarks" / "results" / f"bench-{name}.json")
        sections.append("#" + (run / "bench" / "results.md").read_text(encoding="utf-8").strip())
    above = PAGE.read_text(encoding="utf-8").split(MARKER)[0].rstrip()
    PAGE.write_text("\n\n".join([above, MARKER, *sections]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
