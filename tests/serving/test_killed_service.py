"""`qanchor serve` as a process of its own, killed in the middle of writes."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx2
import numpy as np
import polars as pl
from service_world import DAY, START, refreshed, serving, settings

from qanchor.client import Client
from qanchor.errors import BusyError
from qanchor.events.cover import CLEAR, restored
from qanchor.events.profile_store import EVENT
from qanchor.serving.inbox import Appended
from qanchor.serving.keys import Keys

KILLS = 3
WRITERS = 4


@contextmanager
def process(root: Path, folder: Path, key: str):
    """The server, and its address once it answers; killed at the end, wherever it is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-c", "import sys; from qanchor.cli import main; main(sys.argv[1:])",
        "serve", "--config", root / "qanchor.yaml", "--out", root / "run", "--port", port, "--rate", "1e6",
        "--keys", folder / "keys.json", "--audit", folder / "audit",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen([str(part) for part in command], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(1200):
            assert server.poll() is None, server.stderr.read()
            try:
                if httpx2.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200:
                    break
            except httpx2.TransportError:
                time.sleep(0.05)
        yield server, f"http://127.0.0.1:{port}"
    finally:
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        server.stderr.close()


def write(url: str, key: str, name: str, acknowledged: set[str], sent: set[str]) -> None:
    """One to five events a request until the server is gone; each request says the last one of the one before again."""
    number, last = 0, None
    with Client(url, key) as client:
        while True:
            size = random.randint(1, 5)
            ids = [f"{name}-{number + n}" for n in range(size)] + ([last] if last else [])
            rows = {id: row(id) for id in ids}
            sent.update(ids)
            try:
                reply = client.append("bill", rows)
            except BusyError:
                continue
            except httpx2.TransportError:
                return
            assert not reply.errors
            acknowledged.update(ids)
            number, last = number + size, ids[0]


def row(id: str) -> dict[str, object]:
    """Told by its id, so that a torn one shows."""
    number = int(id.rsplit("-", 1)[1])
    return {"user": f"u{number % 7}", "time": START + 13 * DAY + number, "word": f"event {id}", "value": float(number)}


def test_the_server_killed_under_write_load_keeps_every_acknowledged_event_once(tmp_path):
    root = tmp_path / "world"
    project = refreshed(root)
    (root / "qanchor.yaml").write_text(json.dumps(settings()))  # which is YAML, too
    key = Keys(tmp_path / "keys.json").add("writer", ["append"], timedelta(days=1)).reveal()
    acknowledged: set[str] = set()
    sent: set[str] = set()
    for kill in range(KILLS):
        before = len(acknowledged)
        with process(root, tmp_path, key) as (server, url):
            given = [(url, key, f"{kill}-{writer}", acknowledged, sent) for writer in range(WRITERS)]
            writers = [threading.Thread(target=write, args=arguments) for arguments in given]
            for writer in writers:
                writer.start()
            while len(acknowledged) < before + 20:
                assert server.poll() is None
                assert any(writer.is_alive() for writer in writers)
                time.sleep(0.01)
            time.sleep(random.uniform(0, 0.4))
            os.kill(server.pid, signal.SIGKILL)
            for writer in writers:
                writer.join()
    with serving(project, tmp_path / "again") as client:  # a restart
        assert client.get("/v1/status").json()["appended"] >= len(acknowledged) >= 20 * KILLS
        client.portal.call(client.service.deliver)
    appended = Appended(root / "run" / "serving" / "inbox.sqlite")
    db = appended._db
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    rows = db.execute("SELECT id, user_id, row FROM arrival").fetchall()
    arrived = {id: json.loads(restored(CLEAR, user, text, "arrival", id)[1]) for id, user, text in rows}
    assert acknowledged <= set(arrived) <= sent
    assert len(arrived) == len(rows)
    assert arrived == {id: row(id) for id in arrived}
    said = db.execute(
        "SELECT id, arrival.user_id, time, event, words "
        "FROM arrival JOIN said ON said.arrival = n JOIN word USING (text)"
    ).fetchall()
    values = [
        (id, user, time, np.frombuffer(event, EVENT)["value"].item(), json.loads(words)[-1])
        for id, user, time, event, words in said
    ]
    assert sorted(values) == sorted(
        (id, *(row(id)[name] for name in ("user", "time", "value", "word"))) for id in arrived
    )
    appended.close()
    logged = pl.concat([pl.read_parquet(file) for file in (root / "logs").glob("bill-inbox-*")])
    assert sorted(logged["word"].to_list()) == sorted(f"event {id}" for id in arrived)
