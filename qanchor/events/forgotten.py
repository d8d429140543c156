"""Users who were forgotten: out of the event store, and kept out of it, although their logs may still be there.

The list holds salted hashes: it says of a given id whether it was forgotten, and tells nobody the ids.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Sequence

import polars as pl

from qanchor import storage
from qanchor.events import atomic, rejects, texts
from qanchor.events.lock import alone
from qanchor.events.partitions import Part, Partitions
from qanchor.storage import Place


class Forgotten:
    """`forgotten.json` of a store."""

    def __init__(self, root: Place) -> None:
        self._path = root / "forgotten.json"
        (data,) = storage.contents([self._path])
        known = {} if data is None else json.loads(data)
        self._salt = bytes.fromhex(known["salt"]) if known else secrets.token_bytes(16)
        self._hashes: set[str] = set(known.get("users", []))

    def __contains__(self, user_id: str) -> bool:
        return bool(self._hashes) and self._hash(user_id) in self._hashes

    def add(self, user_ids: Iterable[str]) -> None:
        self._hashes |= {self._hash(user) for user in user_ids}
        atomic.write_json(self._path, {"salt": self._salt.hex(), "users": sorted(self._hashes)})

    def among(self, user_ids: pl.Series) -> list[str]:
        return [user for user in user_ids.drop_nulls().unique() if user in self] if self._hashes else []

    def _hash(self, user_id: str) -> str:
        return hashlib.blake2b(user_id.encode(), key=self._salt, digest_size=16).hexdigest()


def forget(root: Place, user_ids: Sequence[str]) -> None:
    """Take users out of every day, the refused rows, and the text table as far as nobody else said it.

    No later ingest lets them in again. Killed at any moment, a rerun completes it.

    Raises:
        DataError: there is no store at `root`, or an ingest is at work.
    """
    store = Partitions.open(root)
    with alone(root):
        Forgotten(root).add(user_ids)
        used: set[int] = set()
        for day in store.days():
            used |= _forget_day(store, day, user_ids)
        table = pl.read_parquet(storage.whole(store.texts))
        texts.publish(store.texts, table.filter(pl.col("text_id").is_in(list(used))))
        rejects.forget(root / "rejects", user_ids)


def _forget_day(store: Partitions, day: int, user_ids: Sequence[str]) -> set[int]:
    """Replace a day by itself without some users; the ids of the texts that are left."""
    published, theirs = store.day(day), pl.col("user_id").is_in(user_ids)
    shards = {shard: store.read(day, shard) for shard in published.files}
    lost = pl.concat([rows.filter(theirs) for rows in shards.values()])
    stays = {shard: rows.filter(~theirs) for shard, rows in shards.items()}
    if len(lost):
        counts = dict(lost.group_by("part").len().iter_rows())
        parts = {
            name: Part(part.rows - counts.get(code, 0), part.rejected)
            for code, (name, part) in enumerate(published.parts.items())
        }
        store.publish(day, stays.items(), parts)
    return {text for rows in stays.values() for text in rows["text"].unique()}
