"""What `encrypt: true` costs where data is written and read: the second table of `benchmarks/vault.py`.

The same shard in the clear and sealed, taking turns, the first round unmeasured; medians of milliseconds of CPU, all
threads together: the disk has the same to do, and other programs do not count. `store` is what reading a sealed event
store would cost: one column of day files scanned lazily, against the whole files opened and then scanned.

Shapes: N users, O dimensions.
"""

from __future__ import annotations

import datetime as dt
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from qanchor.events import covered
from qanchor.events.cover import CLEAR, Cover
from qanchor.events.profile_store import ProfileShard, State
from qanchor.events.profiles import DAY, Profiles, Texts
from qanchor.events.vault import Box
from qanchor.inference.snapshot import Made, Snapshot
from qanchor.serving.inbox import Appended, Arrival, Inbox

USERS, EVENTS, DIMENSIONS = 10_000, 60, 128
READS, APPENDS, DAYS, ROWS = 1_000, 500, 10, 100_000
AS_OF = dt.date(2026, 1, 1)
MADE = Made(str(AS_OF), "coffee", "?", "model", "prompt", "events", "population")


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Job -> cover -> milliseconds of the CPU."""
    boxes: dict[str, Cover] = {"clear": CLEAR, "sealed": Box({os.urandom(8): os.urandom(32)})}
    times: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="qanchor-rest-") as folder:
        jobs = {name: all_jobs(Path(folder) / name, cover) for name, cover in boxes.items()}
        for round_ in range(rounds + 1):
            for job in jobs["clear"]:
                for name in boxes:
                    start = time.process_time()
                    jobs[name][job]()
                    if round_:
                        spent = 1e3 * (time.process_time() - start)
                        times.setdefault(job, {}).setdefault(name, []).append(spent)
    return {job: {name: statistics.median(spent) for name, spent in own.items()} for job, own in times.items()}


def all_jobs(folder: Path, cover: Cover) -> dict[str, Callable[[], object]]:
    return {**embeddings(folder, cover), **profiles(folder, cover), **appends(folder, cover), **store(folder, cover)}


def embeddings(folder: Path, cover: Cover) -> dict[str, Callable[[], object]]:
    snapshot = Snapshot(folder / "embeddings", AS_OF, lambda _: cover)
    user_N = pa.array(sorted(f"user-{n}" for n in range(USERS)))
    embedding_NO = np.random.default_rng(0).normal(size=(USERS, DIMENSIONS)).astype(np.float32)
    return {
        f"write embeddings of {USERS:,}": lambda: snapshot.write(0, MADE, user_N, embedding_NO),
        f"read embeddings of {USERS:,}": lambda: snapshot.read("coffee", 0),
        "read what a file was made of": lambda: snapshot.made("coffee", 0),
    }


def profiles(folder: Path, cover: Cover) -> dict[str, Callable[[], object]]:
    rng = np.random.default_rng(0)
    last = (AS_OF - dt.date(1970, 1, 1)).days * DAY
    own = Profiles(
        np.array([f"user-{n}" for n in range(USERS)], object),
        np.full(USERS, last),
        np.arange(USERS + 1) * EVENTS,
        np.sort(last - rng.integers(1, 90 * DAY, (USERS, EVENTS)), 1).reshape(-1),
        np.zeros(USERS * EVENTS, np.uint8),
        rng.integers(0, 100, USERS * EVENTS).astype(np.int32),
        rng.normal(size=USERS * EVENTS).astype(np.float32),
        ("bill",),
        Texts(np.arange(100, dtype=np.uint64), ["bill"] * 100, ["bill"] * 100, ["text"] * 100),
    )
    shard = ProfileShard(folder / "profiles" / "shard-0000.sqlite", cover)
    asked = [f"user-{n}" for n in rng.integers(0, USERS, READS)]

    def put() -> None:
        with shard.writing():
            shard.put(own)
            shard.stand_at(State(AS_OF, {}))

    return {
        f"write profiles of {USERS:,}": put,
        f"read {READS:,} profiles": lambda: [shard.events(user) for user in asked],
    }


def appends(folder: Path, cover: Cover) -> dict[str, Callable[[], object]]:
    inbox = Inbox(folder / "inbox.sqlite", cover)
    reader, rounds = Appended(inbox.path, cover), iter(range(1 << 30))

    def append() -> None:
        run = next(rounds)
        said = tuple((n, 0, n, 1.0, ("bill", "bill", f"word {n}")) for n in range(1))
        events = [Arrival(f"{run}-{n}", "bill", f"user-{n}", {"word": "coffee"}, said) for n in range(APPENDS)]
        inbox.append(events).result()

    return {
        f"append {APPENDS} events": append,
        f"read appended events of {APPENDS} users": lambda: [reader.since(f"user-{n}", 0, 9) for n in range(APPENDS)],
    }


def store(folder: Path, cover: Cover) -> dict[str, Callable[[], object]]:
    rng, paths = np.random.default_rng(0), []
    for day in range(DAYS):
        table, buffer = {"user_id": [f"user-{n}" for n in rng.integers(0, USERS, ROWS)]}, io.BytesIO()
        table |= {
            "second": rng.integers(0, DAY, ROWS),
            "text": rng.integers(0, 1 << 62, ROWS),
            "value": rng.random(ROWS),
        }
        pl.DataFrame(table).write_parquet(buffer, compression="zstd", compression_level=1, statistics=False)
        paths.append(folder / "store" / f"day={day}" / "shard=0.parquet")
        covered.write(paths[-1], buffer.getvalue(), cover)

    def scan() -> object:
        frames = [pl.scan_parquet(covered.whole(path, cover)) for path in paths]
        return pl.concat(frames).group_by("user_id").len().collect()

    return {f"store: count events of {DAYS} days": scan}
