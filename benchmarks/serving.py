"""The service under a load generator on loopback: stored, computed and warm embeddings; and what a point read costs.

    python benchmarks/serving.py runs/demo/raw/qanchor.yaml runs/demo    # after `qanchor refresh` of that run
    python benchmarks/serving.py ... --soak 72000          # an hour at 20 requests a second: does memory grow?
    python benchmarks/serving.py ... --against litserve    # the same model behind LitServe, in turns

The generator runs in this process and takes a core's worth of the machine that it measures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import contextmanager, suppress
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
SLICES = 20
"""Readings of memory."""
COMPARED = 256
"""Users who are asked about in turn."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="Others keep their last figures.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "serving.json")
    parser.add_argument("--soak", type=int, metavar="REQUESTS", help="Only this; one in 36 is computed.")
    parser.add_argument("--against", choices=["litserve"], help="Only this.")
    arguments = parser.parse_args()
    daily = Daily(Project.open(arguments.config, arguments.run, Console(quiet=True)))
    users = everyone(daily)
    found = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    if arguments.soak or arguments.against:
        arguments.parts = []
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
        if arguments.soak:
            with served(arguments, Path(folder) / "c", warm_mb=1) as server:
                found["soak"] = soak(server, users, list(daily.project.config.scenarios), arguments.soak)
        if arguments.against:
            found[arguments.against] = against(arguments, Path(folder), users)
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


def soak(server: Server, users: list[str], names: list[str], requests: int) -> dict[str, object]:
    """Resident memory of the server while it answers so many requests, 35 in 36 from the store, the others by the
    model for more users than stay warm."""
    rng, rows, computed = random.Random(2), [], 0
    start = time.perf_counter()
    for part in range(SLICES):
        size, bodies = requests // SLICES, []
        for n in range(size):
            if n % 36:
                bodies.append({"user_ids": [rng.choice(users)], "scenarios": [rng.choice(names)]})
            else:
                bodies.append({"user_ids": [users[computed % len(users)]], "queries": [QUERY.format(rng.random())]})
                computed += 1
        asyncio.run(load(server, [body | {"encoding_format": "base64"} for body in bodies], 8, 0))
        rows.append({"requests": (part + 1) * size, "s": round(time.perf_counter() - start, 1), "rss MB": server.rss()})
        print(rows[-1], flush=True)
    late = rows[SLICES // 2 :]
    slope = np.polyfit([row["requests"] for row in late], [row["rss MB"] for row in late], 1)[0]
    return {
        "requests": SLICES * (requests // SLICES),
        "computed": computed,
        "users": len(users),
        "rss MB": rows,
        "MB gained in 10,000 requests of the second half": round(slope * 1e4, 2),
        "load average": os.getloadavg(),
    }


def against(arguments: argparse.Namespace, folder: Path, users: list[str]) -> dict[str, object]:
    """One user and one free question a request, of `qanchor serve` and of the other, in turns: users who have to be
    read (four or so are kept) and warm ones."""
    some, rows = users[:COMPARED], []
    for kind, warm_mb, keep in (("computed", 1, 4), ("warm", 2048, len(users))):
        ours, theirs = served(arguments, folder / kind, warm_mb), litserved(arguments, keep)
        with ours as first, theirs as second:
            for server in (first, second):  # every user read, and everything loaded
                asyncio.run(load(server, single(some, "0"), 16, 0))
            for connections in (1, 8, 16):
                runs: dict[str, list[dict[str, float]]] = {"qanchor": [], "litserve": []}
                for turn in range(3):
                    bodies = single(some, f"{connections} {turn}")
                    for name, server in (("qanchor", first), ("litserve", second)):
                        runs[name].append(asyncio.run(load(server, bodies, connections, 0)))
                rows += [
                    {"users": kind, "connections": connections, "server": name, **median(own)}
                    for name, own in runs.items()
                ]
                print(*rows[-2:], sep="\n", flush=True)
    return {"rows": rows, "requests a turn": len(some), "load average": os.getloadavg(), "cores": os.cpu_count()}


def single(users: Sequence[str], number: str) -> list[dict[str, object]]:
    return [{"user_ids": [user], "queries": [QUERY.format(number)], "encoding_format": "base64"} for user in users]


def profiles_of(daily: Daily, users: list[str]):
    keys = pl.DataFrame({"user_id": users}).with_columns(as_of=pl.lit(newest(daily).as_of).cast(pl.Datetime("us")))
    return daily.project.store.profiles(keys)


def median(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(run[name] for run in runs), 2) for name in runs[0]}


class Server:
    def __init__(self, port: int, key: str, pid: int) -> None:
        self.port, self.key, self.pid = port, key, pid

    def rss(self) -> float:
        """MB."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)

    def request(self, body: dict[str, object]) -> bytes:
        data = json.dumps(body).encode()
        return (
            f"POST /v1/embed HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        ).encode() + data

    def check(self, body: bytes) -> None:
        assert b'"errors":[]' in body[-20:], body[-200:]


class LitServer(Server):
    def request(self, body: dict[str, object]) -> bytes:
        data = json.dumps({"user_id": body["user_ids"][0], "query": body["queries"][0]}).encode()
        return (
            "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n"
        ).encode() + data

    def check(self, body: bytes) -> None:
        assert body.startswith(b'{"embedding":'), body[:200]


@contextmanager
def litserved(arguments: argparse.Namespace, keep: int):
    """The same model behind LitServe, in processes of its own."""
    port = free_port()
    command = [
        sys.executable, Path(__file__).parent / "litserved.py", arguments.config, arguments.run,
        "--port", port, "--keep", keep,
    ]  # fmt: skip
    process = subprocess.Popen([str(part) for part in command], start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process)
        yield LitServer(port, "", process.pid)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its workers, too
        process.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"the server ended with {process.returncode}")
        with suppress(OSError):
            urllib.request.urlopen(url, timeout=1)
            return
        time.sleep(0.2)
    raise SystemExit(f"{url} does not answer")


@contextmanager
def served(arguments: argparse.Namespace, folder: Path, warm_mb: int):
    """`qanchor serve` in a process of its own."""
    key = Keys(folder / "keys.json").add("load", ["embed:*"], timedelta(days=1)).reveal()
    port = free_port()
    command = [
        sys.executable, "-c", "import sys; from qanchor.cli import main; main(sys.argv[1:])",
        "serve", "--config", arguments.config, "--out", arguments.run, "--port", port, "--rate", "1e9",
        "--keys", folder / "keys.json", "--audit", folder / "audit", "--warm-mb", warm_mb,
    ]  # fmt: skip
    process = subprocess.Popen([str(part) for part in command], stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/readyz", process)
        yield Server(port, key, process.pid)
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
            server.check(body)
        writer.close()

    await asyncio.gather(*map(ask, range(connections)))
    spent = time.perf_counter() - start
    p50, p99 = np.percentile(np.array(took) * 1000, [50, 99])
    return {"requests/s": len(took) / spent, "p50 ms": float(p50), "p99 ms": float(p99)}


if __name__ == "__main__":
    main()
