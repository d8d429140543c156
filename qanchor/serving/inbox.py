"""Events that were appended over HTTP: durable before they are acknowledged, each once, visible at once.

One SQLite file. `arrival` has each event as it came (a row of one of the config's sources, under the id that its sender
gave it), `said` what the source's template makes of it: what the model reads, until a refresh has read the same from
the log files that `delivery.py` makes of the arrivals. `word` has the texts, by their ids.

Under a vault's cover the ids of users, events and texts are keyed hashes, and the contents of all three tables are
sealed before they are written; sources, hours of arrival and seconds of events are not.
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
from qanchor.events.cover import CLEAR, Cover, context, kept, opened, restored
from qanchor.events.profile_store import EVENT
from qanchor.serving.live import Events, Word

GROUP = 64
"""Requests at most that share one commit, and so one sync."""
WAITING = 512
"""Requests that may wait for the disk; more are refused."""
HOUR = 3600
_TABLES = """
CREATE TABLE IF NOT EXISTS arrival (n INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, source TEXT NOT NULL,
    user_id TEXT NOT NULL, hour INTEGER NOT NULL, row BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS arrival_hour ON arrival (source, hour);
CREATE INDEX IF NOT EXISTS arrival_user ON arrival (user_id);
CREATE TABLE IF NOT EXISTS said (user_id TEXT NOT NULL, time INTEGER NOT NULL, text TEXT NOT NULL,
    event BLOB NOT NULL, arrival INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS said_user ON said (user_id, time);
CREATE INDEX IF NOT EXISTS said_arrival ON said (arrival);
CREATE TABLE IF NOT EXISTS word (text TEXT PRIMARY KEY, words BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS due (source TEXT, hour INTEGER, PRIMARY KEY (source, hour));
"""
FORMAT, SEALED = 2, 3
"""Of a file in the clear and of a sealed one."""

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


def connect(path: Path, cover: Cover) -> sqlite3.Connection:
    """Usable by one thread. What is deleted is overwritten, so that who was forgotten cannot be read from the file.

    Raises DataError: the file is of another format, or in the clear and should be sealed, or the other way round.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, isolation_level=None, timeout=30)
    expected = SEALED if cover.sealed else FORMAT
    format = "SELECT user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_user_version"
    found, tables = db.execute(format).fetchone()
    if found != expected and tables:
        names = {FORMAT: "in the clear", SEALED: "sealed"}
        raise DataError(
            f"{path} is {names.get(found, f'of format {found}')}, expected {names[expected]} (`encrypt` in the "
            "config): what came in is in the log files since the service last ended; refresh, then delete it"
        )
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
        db.execute(f"PRAGMA {pragma}")
    if not tables:  # the format with the tables, in one step
        db.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {expected}; COMMIT;")
    return db


class Inbox:
    """Appends that arrive together share one commit; none is acknowledged before it. Safe between threads."""

    def __init__(self, path: Path, cover: Cover = CLEAR) -> None:
        """Raises DataError as `connect`."""
        self.path, self._cover = path, cover
        connect(path, cover).close()
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
        db = connect(self.path, self._cover)
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
            results = [[_insert(db, arrival, self._cover) for arrival in arrivals] for arrivals, _ in waiting]
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

    def __init__(self, path: Path, cover: Cover = CLEAR) -> None:
        """Raises DataError as `connect`; whatever it reads, SealError where that is not what was sealed there."""
        self._db, self._cover = connect(path, cover), cover

    def since(self, user_id: str, start: int, end: int) -> Events:
        """The user's events with start <= time < end, in canonical order."""
        key = self._cover.hide(user_id)
        rows = self._db.execute(
            "SELECT text, event FROM said WHERE user_id = ? AND time >= ? AND time < ?", (key, start, end)
        )
        data = b"".join(opened(self._cover, event, "said", key, text) for text, event in rows)
        events = np.frombuffer(data, EVENT)
        return events[np.lexsort((events["value"], events["text"], events["modality"], events["time"]))]

    def words(self, ids: Sequence[int]) -> dict[int, Word]:
        """Of those texts that were appended."""
        found = {}
        for id in ids:
            key = self._cover.hide(str(id))
            row = self._db.execute("SELECT words FROM word WHERE text = ?", (key,)).fetchone()
            if row:
                modality, category, words = json.loads(opened(self._cover, row[0], "word", key))
                found[id] = (modality, category, words)
        return found

    def count(self) -> int:
        number: int = self._db.execute("SELECT count(*) FROM arrival").fetchone()[0]
        return number

    def users(self) -> list[str]:
        """Everybody of whom there is an event."""
        rows = self._db.execute("SELECT id, user_id, row FROM arrival GROUP BY user_id")
        return [restored(self._cover, key, row, "arrival", id)[0] for id, key, row in rows]

    def due(self) -> list[tuple[str, int]]:
        """(source, hour) whose log file lacks something, or holds someone who was forgotten."""
        return self._db.execute("SELECT source, hour FROM due ORDER BY hour, source").fetchall()

    def rows(self, source: str, hour: int) -> list[dict[str, object]]:
        """What arrived in an hour, in the order of arrival."""
        of_hour = "SELECT id, user_id, row FROM arrival WHERE source = ? AND hour = ? ORDER BY n"
        found = self._db.execute(of_hour, (source, hour))
        return [json.loads(restored(self._cover, key, row, "arrival", id)[1]) for id, key, row in found]

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
            for user in map(self._cover.hide, user_ids):
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


def _insert(db: sqlite3.Connection, arrival: Arrival, cover: Cover) -> bool:
    """Whether the event is new."""
    hour, id = int(time.time()) // HOUR, cover.hide(arrival.id)
    user, row = kept(cover, arrival.user_id, _json(arrival.row), "arrival", id)
    added = db.execute(
        "INSERT OR IGNORE INTO arrival (id, source, user_id, hour, row) VALUES (?, ?, ?, ?, ?)",
        (id, arrival.source, user, hour, row),
    )
    if not added.rowcount:
        return False
    for moment, modality, text, value, words in arrival.said:
        key = cover.hide(str(text))
        event = cover.seal(np.array([(moment, modality, text, value)], EVENT).tobytes(), context("said", user, key))
        db.execute("INSERT INTO said VALUES (?, ?, ?, ?, ?)", (user, moment, key, event, added.lastrowid))
        word = cover.seal(_json(words), context("word", key))
        db.execute("INSERT OR IGNORE INTO word VALUES (?, ?)", (key, word))
    db.execute("INSERT OR IGNORE INTO due VALUES (?, ?)", (arrival.source, hour))
    return True


def _json(data: object) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode()
