"""How fast UserU is built without an LLM: `python benchmarks/useru.py RUN` prints a table and JSON.

Aim: 2,000 users, 20,000 pairs a second on 2 cores. RUN is a run folder with raw/ and store/.

The floor is what no way of building could save: every pair's words must exist as strings in a column and be written to
Parquet. It is measured on the finished pairs: strings to Python and back into columns, and the shards written again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table

from qanchor import config
from qanchor.events import splits
from qanchor.events.store import EventStore
from qanchor.useru import dataset
from qanchor.useru.survey import Survey


def measure(run: Path, limit: int, repeats: int) -> dict[str, Any]:
    settings = config.load(run / "raw" / "qanchor.yaml")
    store = EventStore.open(settings, run / "store")
    requests = splits.requests(settings, store).filter(pl.col("split") != "test").head(limit)
    start = time.perf_counter()
    past, future = store.profiles(requests), store.futures(requests, settings.windows.predict_days)
    reading = time.perf_counter() - start
    seconds: dict[str, list[float]] = {"all": [], "mining": [], "one process": [], "floor": []}
    workers = len(os.sched_getaffinity(0))
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as scratch:
            start = time.perf_counter()
            survey = Survey(settings, past, future, 0)
            mined = time.perf_counter()
            card = dataset.write(survey.run(workers), Path(scratch), {})
            done = time.perf_counter()
            seconds["mining"].append(mined - start)
            seconds["all"].append(done - start)
            start = time.perf_counter()
            for _ in survey.run(1):
                pass
            one = time.perf_counter()
            _floor(Path(scratch))
            seconds["one process"].append(one - start)
            seconds["floor"].append(time.perf_counter() - one)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    keys, pairs = card["keys"], card["pairs"]
    return {
        "users (user, as_of)": keys,
        "events": len(past.time),
        "pairs": pairs,
        "refused by the checker": sum(card["refused"].values()),
        "workers": workers,
        "reading profiles, s": round(reading, 2),
        **{f"{name}, s": round(value, 2) for name, value in middle.items()},
        "users/s": round(keys / middle["all"]),
        "pairs/s": round(pairs / middle["all"]),
        "pairs/s, one process": round(pairs / middle["one process"]),
        "time / floor": round(middle["all"] / middle["floor"], 1),
    }


def _floor(folder: Path) -> None:
    for part in sorted(folder.glob("part-*.parquet")):
        frame = pl.read_parquet(part)
        strings = {name: pl.Series(frame[name].to_list(), dtype=pl.String) for name in ("query", "answer")}
        frame.with_columns(**strings).write_parquet(part)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--limit", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    result = measure(arguments.run, arguments.limit, arguments.repeats)
    table = Table("what", "measured", title=f"UserU without an LLM, {arguments.run.name}")
    for name, value in result.items():
        table.add_row(name, f"{value:,}")
    Console().print(table)
    (Path(__file__).parent / "results" / "useru.json").write_text(json.dumps(result, indent=1) + "\n")
