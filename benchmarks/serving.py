"""The service under a load generator on loopback: stored, computed and warm embeddings; and what a point read costs.

    python benchmarks/serving.py runs/demo/raw/qanchor.yaml runs/demo    # after `qanchor refresh` of that run

The generator runs in this process and takes a core's worth of the machine that it measures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console

from qanchor.daily import Daily
from qanchor.inference.engine import QAnchor
from qanchor.inference.snapshot import Snapshot
from qanchor.pipeline import Project
from qanchor.serving.keys import Keys
from qanchor.serving.shelf import Shelf
from qanchor.serving.world import refreshed

PARTS = ["reads", "stored", "warm", "computed"]
QUERY = "Will this user book a trip soon, number {}?"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="Others keep their last figures.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "serving.json")
    arguments = parser.parse_args()
    daily = Daily(Project.open(arguments.config, arguments.run, Console(quiet=True)))
    users = everyone(daily)
    found = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    if "reads" in arguments.parts:
        found["point reads"] = point_reads(daily, users)
    with tempfile.TemporaryDirectory() as folder:
        if {"stored", "warm"} & set(arguments.parts):
            with served(arguments, Path(folder) / "a", warm_mb=2048) as server:
                if "stored" in arguments.parts:
                    found["stored"] = stored(server, users, list(daily.project.config.scenarios), arguments.seconds)
                if "warm" in arguments.parts:
                    found["warm"] = warm(server, daily, users)
        if "computed" in arguments.parts:
            with served(arguments, Path(folder) / "b", warm_mb=1) as server:
                found["computed"] = computed(server, daily, users)
    text = json.dumps(found, indent=1)
    arguments.out.write_text(text + "\n", encoding="utf-8")
    print(text)


def everyone(daily: Daily) -> list[str]:
    snapshot = newest(daily)
    name = next(iter(daily.project.config.scenarios))
    return [u for s in range(daily.project.config.shards) for u in snapshot.read(name, s)[0].to_pylist()]


def newest(daily: Daily) -> Snapshot:
    return Snapshot(daily.snapshots, max(state.as_of for state in refreshed(daily).values()))


def point_reads(daily: Daily, users: list[str]) -> dict[str, float]:
    """Microseconds of one embedding by its user: mapped matrix against SQLite, in turns."""
    config, scenario = daily.project.config, next(iter(daily.project.config.scenarios))
    asked = random.Random(0).choices(users, k=5000)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        shelf = Shelf.read(newest(daily), [scenario], config.shards, Path(folder))
        loading = time.perf_counter() - start
        matrix, db = shelf.matrices[scenario], sqlite3.connect(Path(folder) / "x.sqlite")
        db.execute("CREATE TABLE e (user_id TEXT PRIMARY KEY, embedding BLOB) WITHOUT ROWID")
        start = time.perf_counter()
        db.executemany("INSERT INTO e VALUES (?, ?)", ((user, matrix.get(user).tobytes()) for user in users))
        db.commit()
        filling = time.perf_counter() - start
        took: dict[str, list[float]] = {"mapped": [], "sqlite": []}
        for _ in range(7):
            start = time.perf_counter()
            for user in asked:
                matrix.get(user)
            took["mapped"].append((time.perf_counter() - start) / len(asked) * 1e6)
            start = time.perf_counter()
            for user in asked:
                row = db.execute("SELECT embedding FROM e WHERE user_id = ?", (user,)).fetchone()
                np.frombuffer(row[0], np.float32)
            took["sqlite"].append((time.perf_counter() - start) / len(asked) * 1e6)
        db.close()
    return {f"{name} us": round(statistics.median(times), 2) for name, times in took.items()} | {
        "mapped: load s": round(loading, 3), "sqlite: fill s": round(filling, 3), "users": len(users)
    }  # fmt: skip


def stored(server: Server, users: list[str], names: list[str], seconds: float) -> list[dict[str, object]]:
    """Requests a second and latencies of one user's stored embedding, by how many ask at once."""
    rows = []
    bodies = [
        {"user_ids": [user], "scenarios": [random.choice(names)], "encoding_format": "base64"}
        for user in random.Random(1).choices(users, k=4000)
    ]
    for connections in (1, 8, 16, 32):
        runs = [asyncio.run(load(server, bodies, connections, seconds)) for _ in range(3)]
        rows.append({"connections": connections, **median(runs)})
    return rows


def warm(server: Server, daily: Daily, users: list[str]) -> dict[str, float]:
    """Milliseconds of 64 users' first and second question; what tokens alone would say."""
    first, second = [], []
    model = QAnchor.from_pretrained(daily.project.out / "model")
    for turn in range(7):
        own = users[64 * turn : 64 * (turn + 1)]
        for times, number in ((first, 0), (second, 1)):
            body = {"user_ids": own, "queries": [QUERY.format(f"{turn} {number}")], "encoding_format": "base64"}
            times.append(asyncio.run(load(server, [body], 1, 0))["p50 ms"])
    profiles = profiles_of(daily, users[:448])
    lengths = [prefix.mask_BP.sum(1).numpy() for prefix, _ in model.prefixes(profiles)]
    prefix = float(np.concatenate(lengths).mean())
    suffix = model.towers.tokens([QUERY.format("1 1")], "left").id_RL.shape[1] + len(model.towers.prompt) + 1
    return {
        "first ms": round(statistics.median(first), 1),
        "second ms": round(statistics.median(second), 1),
        "second / first": round(statistics.median(second) / statistics.median(first), 3),
        "prefix tokens": round(prefix, 1),
        "suffix tokens": suffix,
        "suffix / (prefix + suffix)": round(suffix / (prefix + suffix), 3),
    }


def computed(server: Server, daily: Daily, users: list[str]) -> dict[str, object]:
    """Users a second of the model behind the service against the engine alone, in turns."""
    model = QAnchor.from_pretrained(daily.project.out / "model")
    some = users[:384]
    profiles = profiles_of(daily, some)
    model.embed(profiles, queries=["warming up?"])
    offline, single, bulk = [], [], []
    for turn in range(3):
        query = QUERY.format(turn)
        start = time.perf_counter()
        model.embed(profiles, queries=[query])
        offline.append(len(some) / (time.perf_counter() - start))
        ones = [{"user_ids": [user], "queries": [query], "encoding_format": "base64"} for user in some]
        single.append(asyncio.run(load(server, ones, 128, 0)))
        lots = [
            {"user_ids": some[at : at + 128], "queries": [query], "encoding_format": "base64"}
            for at in range(0, len(some), 128)
        ]
        bulk.append(asyncio.run(load(server, lots, 4, 0)))
    engine = statistics.median(offline)
    by_one, by_lot = median(single), median(bulk)
    return {
        "engine users/s": round(engine),
        "one user a request, 128 at once": by_one | {"of the engine": round(by_one["requests/s"] / engine, 3)},
        "128 users a request, 4 at once": by_lot | {"of the engine": round(by_lot["requests/s"] * 128 / engine, 3)},
        "a batch of 128 ms": round(128 / engine * 1000, 1),
    }


def profiles_of(daily: Daily, users: list[str]):
    keys = pl.DataFrame({"user_id": users}).with_columns(as_of=pl.lit(newest(daily).as_of).cast(pl.Datetime("us")))
    return daily.project.store.profiles(keys)


def median(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(run[name] for run in runs), 2) for name in runs[0]}


class Server:
    def __init__(self, port: int, key: str) -> None:
        self.port, self.key = port, key

    def request(self, body: dict[str, object]) -> bytes:
        data = json.dumps(body).encode()
        return (
            f"POST /v1/embed HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        ).encode() + data


@contextmanager
def served(arguments: argparse.Namespace, folder: Path, warm_mb: int):
    """`qanchor serve` in a process of its own."""
    key = Keys(folder / "keys.json").add("load", ["embed:*"], timedelta(days=1)).reveal()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-c", "import sys; from qanchor.cli import main; main(sys.argv[1:])",
        "serve", "--config", arguments.config, "--out", arguments.run, "--port", port, "--rate", "1e9",
        "--keys", folder / "keys.json", "--audit", folder / "audit", "--warm-mb", warm_mb,
    ]  # fmt: skip
    process = subprocess.Popen([str(part) for part in command], stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1)
                break
            except OSError:
                time.sleep(0.2)
        yield Server(port, key)
    finally:
        process.terminate()
        process.wait()


async def load(server: Server, bodies: list[dict[str, object]], connections: int, seconds: float) -> dict[str, float]:
    """Requests over and over for so many seconds, or each once (0), over so many connections."""
    requests = [server.request(body) for body in bodies]
    took: list[float] = []
    start = time.perf_counter()
    left = iter(requests)

    async def ask(offset: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        n = offset
        while True:
            if seconds:
                if time.perf_counter() - start > seconds:
                    break
                request = requests[n % len(requests)]
                n += connections
            elif (request := next(left, b"")) == b"":
                break
            sent = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
            took.append(time.perf_counter() - sent)
            assert b" 200 " in head[:20], body
            assert b'"errors":[]' in body[-20:], body[-200:]
        writer.close()

    await asyncio.gather(*map(ask, range(connections)))
    spent = time.perf_counter() - start
    p50, p99 = np.percentile(np.array(took) * 1000, [50, 99])
    return {"requests/s": len(took) / spent, "p50 ms": float(p50), "p99 ms": float(p99)}


if __name__ == "__main__":
    main()
