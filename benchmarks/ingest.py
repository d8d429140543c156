"""How fast logs become day partitions, and whether memory stays flat: `python benchmarks/ingest.py [--rows 5000000]`.

Writes synthetic payment logs (30 days, a long tail of merchants) as Parquet and as CSV, all of it and its first
quarter, takes each in with `qanchor.events.ingest` in a process of its own (the best of three runs), and prints rows a
second, processor seconds (they show what a shared machine hides), peak memory, and the floor: the seconds that only
reading the raw file's bytes and writing and syncing the store's would take.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

TARGETS = {"parquet": 1_000_000, "csv": 300_000}
CHUNK = 500_000
LINE = (
    "{rows:10,d}  {seconds:7.2f}{cpu_seconds:7.2f} {rows_per_second:10,.0f} {target:10,d}  {floor_seconds:7.2f}  "
    "{read_mib:8.1f} {written_mib:12.1f}  {peak_mib:8.0f}  {idle_mib:6.0f}"
)
SOURCE = {
    "user": "user_id",
    "time": "time",
    "modality": "bill",
    "text": "{category} at {merchant}",
    "category": "{category}",
    "value": "amount",
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=5_000_000)
    arguments.add_argument("--users", type=int, default=200_000)
    arguments.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "ingest.json")
    arguments.add_argument("--take-in", type=Path, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.take_in:
        print(json.dumps(take_in(options.take_in)))
        return
    with tempfile.TemporaryDirectory(prefix="qanchor-ingest-") as folder:
        results = [
            measure(Path(folder), kind, rows, options) for kind in TARGETS for rows in (options.rows // 4, options.rows)
        ]
    report(results, options.out)


def measure(folder: Path, kind: str, rows: int, options: argparse.Namespace) -> dict[str, object]:
    """One file taken in by a fresh process, which tells its own time and peak memory; the best of three."""
    root = folder / f"{kind}-{rows}"
    write_log(root, kind, rows, options.users, pace=30 * 86_400 / options.rows)
    command = [sys.executable, __file__, "--take-in", str(root)]
    runs = [json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(3)]
    result = min(runs, key=lambda run: run["seconds"]) | {"peak_mib": max(run["peak_mib"] for run in runs)}
    raw = next(root.glob("log.*"))
    result |= {"format": kind, "rows": rows, "rows_per_second": rows / result["seconds"]}
    result |= floor(raw, [path for path in (root / "store").rglob("*") if path.is_file()])
    shutil.rmtree(root)
    return result


def write_log(root: Path, kind: str, rows: int, users: int, pace: float) -> None:
    """Rows in time order, one every `pace` seconds: a smaller log has fewer days, not smaller ones."""
    root.mkdir()
    generator = np.random.default_rng(0)
    categories = pl.Series([f"category {n}" for n in range(40)])
    merchants = pl.Series([f"merchant {n:05d} of the long tail" for n in range(20_000)])
    names = pl.Series([f"2088{n:012d}" for n in range(users)])
    writer = None
    for first in range(0, rows, CHUNK):
        count = min(CHUNK, rows - first)
        merchant = np.minimum(generator.zipf(1.3, count), len(merchants)) - 1
        seconds = 1_750_000_000 + (np.arange(first, first + count) * pace).astype(np.int64)
        table = pl.DataFrame(
            {
                "user_id": names.gather(generator.integers(0, users, count)),
                "time": pl.from_epoch(pl.Series(seconds)).cast(pl.Datetime("us")),
                "category": categories.gather(merchant % len(categories)),
                "merchant": merchants.gather(merchant),
                "amount": generator.lognormal(3, 1, count).round(2),
            }
        )
        if kind == "csv":
            table = table.with_columns(pl.col("time").dt.to_string("%Y-%m-%d %H:%M:%S"))
        data: pa.Table = table.to_arrow(compat_level=pl.CompatLevel.oldest())
        if writer is None:
            make = arrow_csv.CSVWriter if kind == "csv" else pq.ParquetWriter
            writer = make(str(root / f"log.{kind}"), data.schema)
        writer.write_table(data)
    writer.close()


def take_in(root: Path) -> dict[str, float]:
    from qanchor.config import parse
    from qanchor.events.ingest import ingest

    windows = {"train": ["2025-06-20"], "validation": ["2025-06-20"], "test": ["2025-07-20"]}
    config = parse({"name": "benchmark", "sources": [{"path": "log.*", **SOURCE}], "windows": windows}, root)
    shutil.rmtree(root / "store", ignore_errors=True)
    idle = peak_mib()
    start, busy = time.perf_counter(), time.process_time()
    ingest(config, root / "store")
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - busy
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mib": peak_mib(), "idle_mib": idle}


def peak_mib() -> float:
    """Peak resident memory since this program was started (getrusage would count the parent's as well)."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def floor(raw: Path, written: list[Path]) -> dict[str, float]:
    """Reading the raw file's bytes and writing the store's, file by file, synced: what no ingest can avoid."""
    contents = [path.read_bytes() for path in written]
    start = time.perf_counter()
    with raw.open("rb") as file:
        while file.read(1 << 24):
            pass
    for number, content in enumerate(contents):
        with (raw.parent / f"floor-{number}").open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    return {
        "floor_seconds": time.perf_counter() - start,
        "read_mib": raw.stat().st_size / 2**20,
        "written_mib": sum(map(len, contents)) / 2**20,
    }


def report(results: list[dict[str, object]], out: Path) -> None:
    print(f"{cpu()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print("format        rows  seconds  cpu s     rows/s     target  floor s  read MiB  written MiB  peak MiB  (idle)")
    for result in results:
        numbers = {name: value for name, value in result.items() if name != "format"}
        target = TARGETS[str(result["format"])]
        print(f"{result['format']:8s}" + LINE.format(target=target, **numbers))
    data = {"cpu": cpu(), "cores": os.cpu_count(), "python": platform.python_version(), "targets": TARGETS}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**data, "load": os.getloadavg()[0], "results": results}, indent=1) + "\n")


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
