"""Embeddings of one refresh as the service reads them: one matrix a scenario, mapped into memory, and a row by user.

A point read is a look-up and 512 bytes; a search is one matrix product over the whole. The matrices are copies of the
snapshot's Parquet files in files without a name: when nobody reads them any more, or the process is killed, they are
gone, and with them whoever was forgotten. Of a sealed snapshot they lie in memory.

Shapes: N users, O dimensions.
"""

from __future__ import annotations

import datetime as dt
import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from qanchor import storage
from qanchor.inference.search import BLOCK, Near, nearest
from qanchor.inference.snapshot import Snapshot

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Matrix:
    """One scenario's embeddings."""

    rows: dict[str, int]
    users: pa.ChunkedArray
    """[N] in the order of the rows; `rows` is its inverse."""
    embedding_NO: Floats

    def get(self, user_id: str) -> Floats | None:
        row = self.rows.get(user_id)
        return None if row is None else self.embedding_NO[row]

    def nearest(self, vector_O: Floats, k: int, along_RO: Floats) -> list[Near]:
        """The k users with the largest inner product without what a readout wrote, and that; exact, equals by id."""
        return nearest(self._blocks(), vector_O, k, along_RO)

    def _blocks(self) -> Iterator[tuple[pa.ChunkedArray, Floats]]:
        for at in range(0, len(self.embedding_NO), BLOCK):
            yield self.users.slice(at, BLOCK), self.embedding_NO[at : at + BLOCK]


@dataclass(frozen=True)
class Shelf:
    """What the last refresh left, scenario by scenario."""

    as_of: dt.date | None
    """None before the first refresh."""
    matrices: dict[str, Matrix]
    stamps: tuple[object, ...]
    """Change when a file that it was read from does."""

    @classmethod
    def read(cls, snapshot: Snapshot, scenarios: Sequence[str], shards: int, folder: Path) -> Shelf:
        """Copies a snapshot into unnamed files in `folder`. Users of scenarios with the same rows share one index."""
        stamps = stamps_of(snapshot, scenarios, shards)
        matrices: dict[str, Matrix] = {}
        for scenario in scenarios:
            users, embedding_NO = _copied(snapshot, scenario, shards, folder)
            for other in matrices.values():
                if other.users.equals(users):
                    matrices[scenario] = Matrix(other.rows, other.users, embedding_NO)
                    break
            else:
                rows = {user: row for row, user in enumerate(users.to_pylist())}
                matrices[scenario] = Matrix(rows, users, embedding_NO)
        return cls(snapshot.as_of, matrices, stamps)


EMPTY = Shelf(None, {}, ())


def stamps_of(snapshot: Snapshot, scenarios: Sequence[str], shards: int) -> tuple[object, ...]:
    return tuple(
        (snapshot.as_of, scenario, shard, *storage.stamp(snapshot.path(scenario, shard)).values())
        for scenario in scenarios
        for shard in range(shards)
    )


def _copied(snapshot: Snapshot, scenario: str, shards: int, folder: Path) -> tuple[pa.ChunkedArray, Floats]:
    users: list[pa.Array] = []
    folder.mkdir(parents=True, exist_ok=True)
    sealed = snapshot.cover(0).sealed
    # a sealed snapshot is read into memory: not even a file without a name holds it in the clear
    with io.BytesIO() if sealed else tempfile.TemporaryFile(dir=folder) as file:
        width = 0
        for shard in range(shards):
            user_N, embedding_NO = snapshot.read(scenario, shard)
            width = embedding_NO.shape[1]
            users.append(user_N)
            file.write(np.ascontiguousarray(embedding_NO).data)
        file.flush()
        everyone = pa.chunked_array(users, pa.string())
        if not len(everyone):
            return everyone, np.zeros((0, width), np.float32)
        if isinstance(file, io.BytesIO):
            return everyone, np.frombuffer(file.getvalue(), np.float32).reshape(len(everyone), width)
        # a plain array over the mapped pages: numpy's own class of them is slow to index
        return everyone, np.asarray(np.memmap(file, np.float32, "r", shape=(len(everyone), width)))
