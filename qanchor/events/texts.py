"""The text table: every distinct (modality, category, text) once, under a 64-bit id that is valid for ever (D1).

Ids are hashes, so shards and machines never have to agree on a dictionary; the price is a check for collisions.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import polars as pl

from qanchor import storage
from qanchor.errors import CollisionError, DataError
from qanchor.events import atomic
from qanchor.events.profiles import Texts
from qanchor.storage import Place

SCHEMA = {"text_id": pl.UInt64, "modality": pl.String, "category": pl.String, "text": pl.String}


def text_id(modality: str, category: str, text: str) -> int:
    """The stable 64-bit id of a text: BLAKE2b of its three parts."""
    data = f"{modality}\x1f{category}\x1f{text}".encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


class TextTable:
    """The table while logs are read; `save` publishes it."""

    def __init__(self, path: Place, hash64: Callable[[str, str, str], int] = text_id):
        self._path = path
        self._hash64 = hash64
        try:
            self._known = pl.read_parquet(storage.whole(path))
        except FileNotFoundError:
            self._known = pl.DataFrame(schema=SCHEMA)
        self._new: list[pl.DataFrame] = []

    def ids(self, modality: str, category: pl.Series, text: pl.Series) -> pl.Series:
        """UInt64 ids of texts, which should be distinct already; they enter the table.

        Raises:
            CollisionError: two different texts share an id.
        """
        hashed = [self._hash64(modality, *pair) for pair in zip(category.to_list(), text.to_list(), strict=True)]
        ids = pl.Series("text_id", hashed, dtype=pl.UInt64)
        names = pl.Series("modality", [modality], dtype=pl.String).new_from_index(0, len(ids))
        self._new.append(pl.DataFrame({"text_id": ids, "modality": names, "category": category, "text": text}, SCHEMA))
        # merging only once the news outgrow the known keeps the sum of all merges linear
        if sum(map(len, self._new)) > max(len(self._known), 1 << 16):
            self._merge()
        return ids

    def save(self) -> None:
        """Replace the table's file by the merged one, sorted by id. Raises CollisionError and writes nothing."""
        self._merge()
        publish(self._path, self._known)

    def _merge(self) -> None:
        table = pl.concat([self._known, *self._new]).unique().sort("text_id")
        twice = table.filter(pl.col("text_id").is_duplicated())
        if len(twice):
            first, second = (" / ".join(row[1:]) for row in twice.head(2).sort(list(SCHEMA)).rows())
            raise CollisionError(
                f"two texts share the 64-bit id {twice['text_id'][0]}: {first!r} and {second!r}; "
                "change a word in one of their templates and ingest again"
            )
        self._known, self._new = table, []


def publish(path: Place, table: pl.DataFrame) -> None:
    """Replace a table's file by these rows of SCHEMA, sorted by id."""
    buffer = io.BytesIO()
    table.write_parquet(buffer, compression="zstd", statistics=False)
    atomic.write(path, buffer.getvalue())


Version = tuple[int | str, ...]


def version(path: Place) -> Version:
    """Changes with the published table. Raises DataError when there is none."""
    try:
        inode = path.stat().st_ino if isinstance(path, Path) else 0
        return inode, *storage.stamp(path).values()
    except FileNotFoundError:
        raise DataError(f"no text table at {path}: run `qanchor ingest` first") from None


def load(path: Place) -> Texts:
    """The published table."""
    table = pl.read_parquet(storage.whole(path))
    return Texts(table["text_id"].to_numpy(), *(table[name].to_list() for name in ("modality", "category", "text")))
