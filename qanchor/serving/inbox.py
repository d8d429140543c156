"""Events that were appended over HTTP: durable before they are acknowledged, each once, visible at once.

One SQLite file. `arrival` has each event as it came (a row of one of the config's sources, under the id that its sender
gave it), `said` what the source's template makes of it: what the model reads, until a refresh has read the same from
the log files that `delivery.py` makes of the arrivals.
"""

from __future__ import annotations

import datetime as dt
import json
import queue
import sqlite3
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qanchor.errors import BusyError, DataError
from qanchor.events.profile_store import EVENT
from qanchor.serving.live import Events, Word

GROUP = 64
"""Requests at most that share one commit, and so one sync."""
WAITING = 512
"""Requests that may wait for the disk; more are refused."""
HOUR = 3600
_TABLES = """
CREATE TABLE IF NOT EXISTS arrival (n INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, source TEXT NOT NULL,
    user_id TEXT NOT NULL, hour INTEGER NOT NULL, row TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS arrival_hour ON arrival (source, hour);
CREATE INDEX IF NOT EXISTS arrival_user ON arrival (user_id);
CREATE TABLE IF NOT EXISTS said (user_id TEXT NOT NULL, time INTEGER NOT NULL, modality INTEGER NOT NULL,
    text INTEGER NOT NULL, value REAL, arrival INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS said_user ON said (user_id, time);
CREATE INDEX IF NOT EXISTS said_arrival ON said (arrival);
CREATE TABLE IF NOT EXISTS word (text INTEGER PRIMARY KEY, modality TEXT, category TEXT, words TEXT);
CREATE TABLE IF NOT EXISTS due (source TEXT, hour INTEGER, PRIMARY KEY (source, hour));
"""


Said = tuple[int, int, int, float, Word]
"""time, modality, text id, value or NaN, words."""


@dataclass(frozen=True)
class Arrival:
    """One event, verbalised."""

    id: str
    source: str
    user_id: str
    row: dict[str, object]
    said: tuple[Said, ...]
    """One, or for a source of `features` one a column."""


def connect(path: Path) -> sqlite3.Connection:
    """Usable by one thread. What is deleted is overwritten, so that who was forgotten cannot be read from the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, isolation_level=None, timeout=30)
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
        db.execute(f"PRAGMA {pragma}")
    db.executescript(_TABLES)
    return db


class Inbox:
    """Appends that arrive together share one commit; none is acknowledged before it. Safe between threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        connect(path).close()
        self._queue: queue.Queue[tuple[Sequence[Arrival], Future[list[bool]]] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name="inbox", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Requests that wait."""
        return self._queue.qsize()

    def append(self, arrivals: Sequence[Arrival]) -> Future[list[bool]]:
        """Done once all are on disk: for each whether it is new; an id that was seen before changes nothing.

        Raises BusyError when too many wait; the future raises DataError when the disk fails.
        """
        done: Future[list[bool]] = Future()
        try:
            self._queue.put_nowait((arrivals, done))
        except queue.Full:
            raise BusyError("too many appends wait for the disk: send it again in a second", 1) from None
        return done

    def close(self) -> None:
        """Write what waits."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        db = connect(self.path)
        going = True
        while going:
            group = [self._queue.get()]
            with suppress(queue.Empty):
                while len(group) < GROUP:
                    group.append(self._queue.get_nowait())
            going = None not in group
            # whoever is gone by now sent it all the same: it is written, too
            self._commit(db, [item for item in group if item is not None])
        db.close()

    def _commit(self, db: sqlite3.Connection, group: list[tuple[Sequence[Arrival], Future[list[bool]]]]) -> None:
        waiting = [(arrivals, done) for arrivals, done in group if done.set_running_or_notify_cancel() or True]
        try:
            db.execute("BEGIN IMMEDIATE")
            results = [[_insert(db, arrival) for arrival in arrivals] for arrivals, _ in waiting]
            db.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            failure = DataError(f"the events could not be written ({error}): send them again")
            for _, done in waiting:
                if not done.cancelled():
                    done.set_exception(failure)
            return
        for (_, done), result in zip(waiting, results, strict=True):
            if not done.cancelled():
                done.set_result(result)


class Appended:
    """What was appended, as a reader sees it. For one thread."""

    def __init__(self, path: Path) -> None:
        self._db = connect(path)

    def since(self, user_id: str, start: int, end: int) -> Events:
        """The user's events with start <= time < end, in canonical order."""
        rows = self._db.execute(
            "SELECT time, modality, text, value FROM said WHERE user_id = ? AND time >= ? AND time < ? ",
            (user_id, start, end),
        ).fetchall()
        events = np.array(
            [
                (time, modality, _unsigned(text), np.nan if value is None else value)
                for time, modality, text, value in rows
            ],
            EVENT,
        )
        return events[np.lexsort((events["value"], events["text"], events["modality"], events["time"]))]

    def words(self, ids: Sequence[int]) -> dict[int, Word]:
        """Of those texts that were appended."""
        found = {}
        for id in ids:
            row = self._db.execute(
                "SELECT modality, category, words FROM word WHERE text = ?", (_signed(id),)
            ).fetchone()
            if row:
                found[id] = row
        return found

    def count(self) -> int:
        number: int = self._db.execute("SELECT count(*) FROM arrival").fetchone()[0]
        return number

    def users(self) -> list[str]:
        """Everybody of whom there is an event."""
        return [user for (user,) in self._db.execute("SELECT DISTINCT user_id FROM arrival")]

    def due(self) -> list[tuple[str, int]]:
        """(source, hour) whose log file lacks something, or holds someone who was forgotten."""
        return self._db.execute("SELECT source, hour FROM due ORDER BY hour, source").fetchall()

    def rows(self, source: str, hour: int) -> list[dict[str, object]]:
        """What arrived in an hour, in the order of arrival."""
        found = self._db.execute("SELECT row FROM arrival WHERE source = ? AND hour = ? ORDER BY n", (source, hour))
        return [json.loads(row) for (row,) in found]

    def delivered(self, source: str, hour: int, count: int) -> None:
        """The file of an hour holds `count` rows; it stays due where more have come since."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            now = self._db.execute("SELECT count(*) FROM arrival WHERE source = ? AND hour = ?", (source, hour))
            if now.fetchone()[0] == count:
                self._db.execute("DELETE FROM due WHERE source = ? AND hour = ?", (source, hour))

    def forget(self, user_ids: Sequence[str]) -> int:
        """How many events of these users there were; the log files that held them are due again."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            number = 0
            for user in user_ids:
                self._db.execute(
                    "INSERT OR IGNORE INTO due SELECT DISTINCT source, hour FROM arrival WHERE user_id = ?", (user,)
                )
                self._db.execute("DELETE FROM said WHERE user_id = ?", (user,))
                number += self._db.execute("DELETE FROM arrival WHERE user_id = ?", (user,)).rowcount
            self._db.execute("DELETE FROM word WHERE text NOT IN (SELECT text FROM said)")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return number

    def drop_before(self, moment: int, arrived: int) -> None:
        """Hours before `arrived` (seconds) of which all events lie before `moment`: a refresh has read their files.

        Never a part of an hour: its log file may have to be written again.
        """
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(
                "CREATE TEMP TABLE old AS SELECT DISTINCT source, hour FROM arrival WHERE hour < ? "
                "EXCEPT SELECT source, hour FROM due "
                "EXCEPT SELECT source, hour FROM arrival JOIN said ON said.arrival = arrival.n WHERE time >= ?",
                (arrived // HOUR, moment),
            )
            theirs = "SELECT n FROM arrival WHERE (source, hour) IN (SELECT source, hour FROM old)"
            self._db.execute(f"DELETE FROM said WHERE arrival IN ({theirs})")
            self._db.execute(f"DELETE FROM arrival WHERE n IN ({theirs})")
            self._db.execute("DELETE FROM word WHERE text NOT IN (SELECT text FROM said)")
            self._db.execute("DROP TABLE old")

    def close(self) -> None:
        self._db.close()


def hour_name(hour: int) -> str:
    return dt.datetime.fromtimestamp(hour * HOUR, dt.UTC).strftime("%Y-%m-%dT%H")


def _insert(db: sqlite3.Connection, arrival: Arrival) -> bool:
    """Whether the event is new."""
    hour = int(time.time()) // HOUR
    added = db.execute(
        "INSERT OR IGNORE INTO arrival (id, source, user_id, hour, row) VALUES (?, ?, ?, ?, ?)",
        (arrival.id, arrival.source, arrival.user_id, hour, json.dumps(arrival.row, ensure_ascii=False)),
    )
    if not added.rowcount:
        return False
    for moment, modality, text, value, words in arrival.said:
        said = (arrival.user_id, moment, modality, _signed(text), None if np.isnan(value) else value, added.lastrowid)
        db.execute("INSERT INTO said VALUES (?, ?, ?, ?, ?, ?)", said)
        db.execute("INSERT OR IGNORE INTO word VALUES (?, ?, ?, ?)", (_signed(text), *words))
    db.execute("INSERT OR IGNORE INTO due VALUES (?, ?)", (arrival.source, hour))
    return True


def _signed(id: int) -> int:
    """SQLite has no unsigned integers."""
    return id - (1 << 64) if id >= 1 << 63 else id


def _unsigned(id: int) -> int:
    return id + (1 << 64) if id < 0 else id
