"""What a durable audit line costs: `python benchmarks/audit.py [--folder .]` prints a table and writes JSON.

Clients in threads, each of which waits for its line before the next; the floor is this disk's own append and sync.
The folder decides: give it the disk on which the log will be.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from qanchor.serving.audit import Audit, Entry
from qanchor.serving.trail import verify

CLIENTS = (1, 8, 64)
LINES = 200
KEY = bytes(32)
ENTRY = Entry("key:0123456789ab", "embed", ("takeout",), 3, "200")


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--folder", type=Path, default=Path())
    arguments.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "audit.json")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="qanchor-audit-", dir=options.folder) as folder:
        floor = sync(Path(folder) / "floor")
        report(floor, [measure(Path(folder) / str(clients), clients) for clients in CLIENTS], options.out)


def sync(path: Path) -> float:
    """Milliseconds in which this disk appends a line and syncs it, the median."""
    file, spent = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), []
    for _ in range(LINES // 2):
        start = time.perf_counter()
        os.write(file, bytes(250))
        os.fdatasync(file)
        spent.append(1e3 * (time.perf_counter() - start))
    os.close(file)
    return statistics.median(spent)


def measure(folder: Path, clients: int) -> dict[str, float]:
    audit, waits = Audit(folder, KEY), []

    def work() -> None:
        for _ in range(LINES):
            start = time.perf_counter()
            audit.write(ENTRY).result()
            waits.append(1e3 * (time.perf_counter() - start))

    threads = [threading.Thread(target=work) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    audit.close()
    start = time.perf_counter()
    trail = verify(folder, KEY)
    p50, p99 = np.percentile(waits, [50, 99])
    verified = trail.last / (time.perf_counter() - start)
    return {
        "clients": clients,
        "lines_a_second": trail.last / seconds,
        "p50_ms": p50,
        "p99_ms": p99,
        "verified": verified,
    }


def report(floor: float, results: list[dict[str, float]], out: Path) -> None:
    table = Table("clients", "lines/s", "p50 ms", "p99 ms", "verified lines/s", title=f"one sync {floor:.2f} ms")
    for row in results:
        table.add_row(
            f"{row['clients']:.0f}",
            f"{row['lines_a_second']:,.0f}",
            f"{row['p50_ms']:.1f}",
            f"{row['p99_ms']:.1f}",
            f"{row['verified']:,.0f}",
        )
    Console(width=120).print(table)
    out.write_text(json.dumps({"sync_ms": floor, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
