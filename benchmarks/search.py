"""Exact search against a Lance index: recall@100 and milliseconds, over clustered vectors of unit length.

    python benchmarks/search.py --users 200000 --out benchmarks/results/search.json

Vectors are the sum of one of 500 centres and noise, 128 dimensions. Sought are directions of two kinds: near a user
(`like a user`), and the difference of two random centres (`a contrast`), as statements give it.

Shapes: N users, O = 128.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from qanchor.evaluation.judge import hardware
from qanchor.inference import lance
from qanchor.inference.search import BLOCK, nearest
from qanchor.inference.snapshot import Floats, Made, Snapshot

K, WIDTH, CENTRES, QUERIES = 100, 128, 500, 20
PROBED = (0.05, 0.1, 0.2, 0.4)


def crowd(users: int, random: np.random.Generator) -> tuple[Floats, Floats]:
    """[N, O] users, [CENTRES, O] centres."""
    centre_CO = random.normal(size=(CENTRES, WIDTH)).astype(np.float32)
    row_NO = centre_CO[random.integers(CENTRES, size=users)]
    row_NO += random.standard_normal((users, WIDTH), np.float32)
    return row_NO / np.linalg.norm(row_NO, axis=1, keepdims=True), centre_CO


def main(users: int, out: Path | None) -> None:
    random = np.random.default_rng(0)
    row_NO, centre_CO = crowd(users, random)
    pair_Q2 = random.integers(CENTRES, size=(QUERIES, 2))
    sought = {
        "like a user": row_NO[random.integers(users, size=QUERIES)],
        "a contrast": centre_CO[pair_Q2[:, 0]] - centre_CO[pair_Q2[:, 1]],
    }
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        snapshot = Snapshot(Path(folder), dt.date(2026, 1, 1))
        names = pa.array([f"u{n:08d}" for n in range(users)])
        snapshot.write(0, Made("2026-01-01", "trip", "", "", "", "", ""), names, row_NO)
        start = time.perf_counter()
        lance.write(snapshot, "trip", 1)
        built = time.perf_counter() - start
        for kind, vector_QO in sought.items():
            start = time.perf_counter()
            exact = [nearest(snapshot.blocks("trip", 0, BLOCK), vector_O, K) for vector_O in vector_QO]
            taken = (time.perf_counter() - start) / QUERIES
            rows.append({"sought": kind, "search": "exact, from Parquet", "recall": 1.0, "ms": 1e3 * taken})
            for probed in PROBED:
                lance.PROBED = probed
                start = time.perf_counter()
                found = [lance.search(snapshot, "trip", 1, vector_O, K) for vector_O in vector_QO]
                taken = (time.perf_counter() - start) / QUERIES
                hits = [len(set(own) & set(all_of)) / K for own, all_of in zip(found, exact, strict=True)]
                name = f"Lance, {probed:.0%} of the cells"
                rows.append({"sought": kind, "search": name, "recall": float(np.mean(hits)), "ms": 1e3 * taken})
    told = {"users": users, "k": K, "built_s": round(built, 1), "hardware": hardware(), "rows": rows}
    grid = Table("sought", "search", f"recall@{K}", "ms", title=f"{users:,} users; data set and index {built:.0f} s")
    for row in rows:
        grid.add_row(row["sought"], row["search"], f"{row['recall']:.3f}", f"{row['ms']:.1f}")
    Console().print(grid)
    if out:
        out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    main(arguments.users, arguments.out)
