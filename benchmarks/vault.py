"""What encryption at rest costs: `python benchmarks/vault.py` prints a table and writes JSON.

Seals and opens blobs of the sizes that the store holds (an embedding of 128 floats is 512 bytes, a profile 1-10 KB),
each with a context of its own, and does to the same blobs what else happens to them: a copy, zlib's fastest level, and
one commit to SQLite (WAL) for each two hundred. One process, taking turns, each job once unmeasured so that its blobs
are in the cache, as they are after a read; medians of the rounds. Then what `encrypt: true` costs where a shard's
embeddings, profiles and appended events are written and read (`at_rest.py`). About a minute in all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import at_rest
from rich.console import Console
from rich.table import Table

from qanchor.events.cover import context
from qanchor.events.vault import Box

SIZES = (512, 1024, 4096, 10240)
BLOBS = 200


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=101)
    arguments.add_argument("--rest-rounds", type=int, default=9)
    arguments.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "vault.json")
    options = arguments.parse_args()
    report([measure(size, options.rounds) for size in SIZES], at_rest.measure(options.rest_rounds), options.out)


def measure(size: int, rounds: int) -> dict[str, float]:
    """Nanoseconds a blob, the median over the rounds, in which all jobs take turns."""
    # half of it compresses, as a profile does
    blobs = [os.urandom(size // 2) + bytes(size - size // 2) for _ in range(BLOBS)]
    places = [context(f"user {n}", "profile") for n in range(BLOBS)]
    box = Box({os.urandom(8): os.urandom(32)})
    sealed = [box.seal(blob, place) for blob, place in zip(blobs, places, strict=True)]
    with tempfile.TemporaryDirectory(prefix="qanchor-vault-") as folder:
        jobs: dict[str, Callable[[], object]] = {
            "seal": lambda: each(box.seal, blobs, places),
            "open": lambda: each(box.open, sealed, places),
            "copy": lambda: each(bytearray, blobs),
            "zlib": lambda: each(lambda blob: zlib.compress(blob, 1), blobs),
            "sqlite": lambda: write(Path(folder) / "blobs.sqlite", blobs),
        }
        times: dict[str, list[float]] = {name: [] for name in jobs}
        for _ in range(rounds):
            for name, job in jobs.items():
                job()
                start = time.perf_counter_ns()
                job()
                times[name].append((time.perf_counter_ns() - start) / BLOBS)
    return {"bytes": size} | {name: statistics.median(spent) for name, spent in times.items()}


def each(job: Callable[..., object], *lists: list[bytes]) -> None:
    """Results are dropped at once: keeping them would measure the pages that they fill."""
    for arguments in zip(*lists, strict=True):
        job(*arguments)


def write(path: Path, blobs: list[bytes]) -> None:
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE IF NOT EXISTS blobs (id INTEGER PRIMARY KEY, data BLOB)")
        database.executemany("INSERT OR REPLACE INTO blobs VALUES (?, ?)", enumerate(blobs))
    database.close()


def report(results: list[dict[str, float]], at_rest: dict[str, dict[str, float]], out: Path) -> None:
    table = Table("bytes", "seal ns", "open ns", "seal ns/KB", "open ns/KB", "seal/copy", "seal/zlib", "seal/SQLite")
    for row in results:
        kilobytes = row["bytes"] / 1024
        table.add_row(
            f"{row['bytes']:.0f}",
            *(f"{row[job]:,.0f}" for job in ("seal", "open")),
            *(f"{row[job] / kilobytes:,.0f}" for job in ("seal", "open")),
            *(f"{row['seal'] / row[job]:.2f}" for job in ("copy", "zlib", "sqlite")),
        )
    whole = Table("at rest, ms of the CPU", "clear", "sealed", "more")
    for job, spent in at_rest.items():
        clear, sealed = spent["clear"], spent["sealed"]
        whole.add_row(job, f"{clear:,.1f}", f"{sealed:,.1f}", f"{sealed - clear:,.1f}")
    console = Console(width=120)
    console.print(table)
    console.print(whole)
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    machine["aes"] = "aes" in Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else None
    found = {"machine": machine, "unit": "ns a blob", "results": results, "at_rest_cpu_ms": at_rest}
    out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
