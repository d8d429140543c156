"""Profiles as they were embedded last, one at a time by their user's id: SQLite in WAL mode, one file a shard (D9b).

What refresh compares a new day with, and what serving reads. Everything that one refresh changes in a shard is one
transaction: after a crash at any moment the shard stands at the day before or at the new one.

Under a vault's cover a row's key is a keyed hash of the user's id, and its events are sealed together with the id. What
stays in the clear is how many rows there are, and what the shard stands at.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from qanchor import storage
from qanchor.errors import DataError
from qanchor.events import atomic
from qanchor.events.cover import CLEAR, Cover, Covers, clear, kept, restored, shard_name
from qanchor.events.partitions import day_of
from qanchor.events.profiles import DAY, Profiles, Texts
from qanchor.events.shards import shard_of
from qanchor.storage import Place

FORMAT, SEALED = 3, 4
"""Of a file in the clear and of a sealed one."""
EVENT = np.dtype([("time", "<i8"), ("modality", "u1"), ("text", "<u8"), ("value", "<f4")])
"""How an event is kept: 21 bytes, its text by the id that is valid for ever."""
KIND = "profile"
"""Of a sealed row's place."""
_TABLES = """
CREATE TABLE IF NOT EXISTS profile (user_id TEXT PRIMARY KEY, events BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS state (one INTEGER PRIMARY KEY CHECK (one = 1), format INTEGER, as_of TEXT, files TEXT);
"""


@dataclass(frozen=True)
class State:
    """What a shard's profiles are: the windows that end at `as_of`, read from these files of the store."""

    as_of: dt.date
    files: dict[str, str]
    """Day -> file name, which carries a hash of the content."""


class ProfileShard:
    """The profiles of one shard. One process writes, any number reads."""

    def __init__(self, path: Path, cover: Cover = CLEAR) -> None:
        """Opens the file, and makes it where there is none. Raises DataError when it is of another format, and when
        it lies in the clear and should be sealed, or the other way round."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._cover = path, cover
        self._db = sqlite3.connect(path, isolation_level=None)
        # a row that is gone is overwritten, so that what was forgotten cannot be read from the file
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(_TABLES)
        _expect_format(self._db, path, cover)

    @classmethod
    @contextlib.contextmanager
    def at(cls, folder: Place, shard: int, covers: Covers = clear) -> Iterator[ProfileShard]:
        """A shard's file of a folder. Of a bucket it is a copy, which replaces the object when the block ends well."""
        place = shard_path(folder, shard)
        with storage.scratch(folder) as scratch:
            path = scratch / place.name
            if not isinstance(place, Path):
                (data,) = storage.contents([place])
                path.write_bytes(data or b"")
            kept = cls(path, covers(place.stem))
            try:
                yield kept
                kept._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                kept.close()
            if not isinstance(place, Path):
                atomic.switch(path, place)

    def close(self) -> None:
        self._db.close()

    def __len__(self) -> int:
        number: int = self._db.execute("SELECT count(*) FROM profile").fetchone()[0]
        return number

    @property
    def state(self) -> State | None:
        """None before the first refresh."""
        row = self._db.execute("SELECT as_of, files FROM state").fetchone()
        return None if row is None else State(dt.date.fromisoformat(row[0]), json.loads(row[1]))

    def events(self, user_id: str) -> npt.NDArray[np.void] | None:
        """[E] of dtype EVENT in canonical order; None for a user without a profile."""
        blob = self._kept(user_id)
        return None if blob is None else np.frombuffer(blob, EVENT)

    def users(self) -> list[str]:
        """In order."""
        return sorted(map(self._user, self._db.execute(f"SELECT {self._whose} FROM profile")))

    def differing(self, profiles: Profiles) -> list[str]:
        """Users of `profiles` whose events are others than those kept here."""
        return [user for user, events in _rows(profiles) if (self._kept(user) or b"") != events]

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """All that is put and dropped inside is one transaction, or, where an exception or a crash ends it, nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def put(self, profiles: Profiles) -> None:
        """Keep these profiles in place of their users' old ones; none is kept of a user without events."""
        rows = (kept(self._cover, user, events, KIND) for user, events in _rows(profiles) if events)
        self._db.executemany("INSERT OR REPLACE INTO profile (user_id, events) VALUES (?, ?)", rows)
        self.drop(profiles.user_ids[profiles.counts == 0])

    def drop(self, user_ids: Iterable[str]) -> int:
        """How many of these users had a profile."""
        keys = ((self._cover.hide(user),) for user in user_ids)
        return self._db.executemany("DELETE FROM profile WHERE user_id = ?", keys).rowcount

    def stand_at(self, state: State) -> None:
        row = (SEALED if self._cover.sealed else FORMAT, str(state.as_of), json.dumps(state.files))
        self._db.execute("INSERT OR REPLACE INTO state VALUES (1, ?, ?, ?)", row)

    def scrub(self) -> None:
        """Leave no trace of dropped rows in the file or its log."""
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.execute("VACUUM")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _kept(self, user_id: str) -> bytes | None:
        """A user's events."""
        key = self._cover.hide(user_id)
        row = self._db.execute("SELECT events FROM profile WHERE user_id = ?", (key,)).fetchone()
        return None if row is None else restored(self._cover, key, row[0], KIND)[1]

    @property
    def _whose(self) -> str:
        """Columns that tell whose a row is: the key is enough in the clear."""
        return "user_id, events" if self._cover.sealed else "user_id, NULL"

    def _user(self, row: tuple[str, bytes]) -> str:
        return restored(self._cover, *row, KIND)[0]


class ProfileStore:
    """Point reads over all shards of a folder, as of each shard's last refresh. For one thread."""

    def __init__(self, folder: Place, shards: int, modalities: tuple[str, ...], covers: Covers = clear) -> None:
        """Of a bucket, what it holds now is read from copies, which go with this object."""
        self._covers = covers
        self._places = [shard_path(folder, shard) for shard in range(shards)]
        self._modalities = modalities
        self._copies = contextlib.ExitStack()
        self._open: dict[int, sqlite3.Connection] = {}

    def close(self) -> None:
        for connection in self._open.values():
            connection.close()
        self._open.clear()
        self._copies.close()

    def states(self) -> dict[int, State]:
        """Of each shard that was refreshed."""
        rows = {shard: self._row(shard, "SELECT as_of, files FROM state") for shard in range(len(self._places))}
        return {shard: State(dt.date.fromisoformat(row[0]), json.loads(row[1])) for shard, row in rows.items() if row}

    def events(self, user_id: str) -> tuple[dt.date, npt.NDArray[np.void]] | None:
        """as_of of the last refresh of the user's shard, and the events [E] of dtype EVENT, which may be none.

        Both as of one moment, whatever refresh is at work. None before the first one.
        """
        shard = int(shard_of(pl.Series([user_id]), len(self._places))[0])
        own = self._covers(self._places[shard].stem)
        key = own.hide(user_id)
        row = self._row(shard, "SELECT as_of, (SELECT events FROM profile WHERE user_id = ?) FROM state", key)
        if row is None:
            return None
        events = restored(own, key, row[1], KIND)[1] if row[1] else b""
        return dt.date.fromisoformat(row[0]), np.frombuffer(events, EVENT)

    def get(self, user_id: str, texts: Texts) -> Profiles:
        """The user's profile, as one row of `Profiles`; `texts` is the store's table.

        Raises:
            DataError: nothing was refreshed yet, or the user had no event in the window at the last refresh.
        """
        found = self.events(user_id)
        if found is None:
            raise DataError(f"no profiles in {self._places[0].parent}: run `qanchor refresh` first")
        as_of, events = found
        if not len(events):
            raise DataError(f"user {user_id!r} has no profile: no events in the window at the last refresh")
        return Profiles(
            np.array([user_id], object),
            np.array([day_of(as_of) * DAY]),
            np.array([0, len(events)]),
            events["time"].astype(np.int64),
            events["modality"].astype(np.uint8),
            np.searchsorted(texts.ids, events["text"]).astype(np.int32),
            events["value"].astype(np.float32),
            self._modalities,
            texts,
        )

    def _row(self, shard: int, query: str, *values: str) -> Any:
        """The one row of a query, None where there is none, or no file yet."""
        if shard not in self._open:
            place = self._places[shard]
            if not place.exists():
                return None
            db = sqlite3.connect(_local(place, self._copies), isolation_level=None)
            db.execute("PRAGMA query_only = ON")
            _expect_format(db, place, self._covers(place.stem))
            self._open[shard] = db
        return self._open[shard].execute(query, values).fetchone()


def _local(place: Place, copies: contextlib.ExitStack) -> Path:
    """The file itself, or a copy that stays as long as `copies` are open."""
    if isinstance(place, Path):
        return place
    (data,) = storage.contents([place])
    path = Path(copies.enter_context(tempfile.TemporaryDirectory(prefix="qanchor-profiles-"))) / place.name
    path.write_bytes(data or b"")
    return path


def _expect_format(db: sqlite3.Connection, path: Place, cover: Cover) -> None:
    """Raises DataError."""
    row = db.execute("SELECT format FROM state").fetchone()
    expected, names = SEALED if cover.sealed else FORMAT, {FORMAT: "in the clear", SEALED: "sealed"}
    if row is not None and row[0] != expected:
        raise DataError(
            f"{path} is {names.get(row[0], f'of format {row[0]}')}, expected {names[expected]} (`encrypt` in the "
            "config): delete profiles/ and embeddings/ and refresh again"
        )


def shard_path(folder: Place, shard: int) -> Place:
    return folder / f"{shard_name(shard)}.sqlite"


def _rows(profiles: Profiles) -> Iterator[tuple[str, bytes]]:
    """(user, events) of each profile."""
    events = np.empty(len(profiles.time), EVENT)
    events["time"], events["modality"], events["value"] = profiles.time, profiles.modality, profiles.value
    events["text"] = profiles.texts.ids[profiles.text]
    data, stop = events.tobytes(), (profiles.offsets * EVENT.itemsize).tolist()
    for n, user in enumerate(profiles.user_ids):
        yield user, data[stop[n] : stop[n + 1]]
