"""How fast the wallet simulator writes logs: `python benchmarks/wallet.py --users 100000` prints a table and JSON.

Target: 100,000 users of 90 + 30 days in at most 180 seconds on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import tempfile
import time
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table

from qanchor.datasets.wallet import simulate
from qanchor.datasets.wallet_world import SOURCES


def measure(users: int, days: int) -> dict[str, float | str]:
    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch)
        start = time.perf_counter()
        simulate(raw, users, days=days, as_of_days=(days - 30,))
        seconds = time.perf_counter() - start
        events = sum(pl.scan_parquet(raw / name / "*.parquet").select(pl.len()).collect().item() for name in SOURCES)
        size = sum(path.stat().st_size for path in raw.rglob("*.parquet"))
    return {
        "users": users,
        "days": days,
        "events": events,
        "seconds": round(seconds, 1),
        "events/s": round(events / seconds),
        "MB on disk": round(size / 1e6),
        "peak MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
        "machine": platform.processor() or platform.machine(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--days", type=int, default=120)
    arguments = parser.parse_args()
    result = measure(arguments.users, arguments.days)
    table = Table("what", "measured", title="wallet simulator")
    for name, value in result.items():
        table.add_row(name, f"{value:,}" if not isinstance(value, str) else value)
    Console().print(table)
    print(json.dumps(result))
