"""Finished text vectors on disk: each distinct text encoded once, found again by its hash, read by rows.

Shapes: T texts, W width of a text vector, N vectors on disk.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Encode = Callable[[list[str]], npt.NDArray[np.float32]]
SAVE_EVERY = 1024
"""Texts encoded between two saves: what a kill costs at most."""


@dataclass(frozen=True)
class VectorTable:
    """The vectors of T texts, left on disk: memory holds what was read last and may drop it again."""

    vector_NW: npt.NDArray[np.float16]
    row_T: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row_T)

    def take(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """[R, W] vectors of some of the texts."""
        return self.vector_NW[self.row_T[rows]].astype(np.float32)


class Vectors:
    """One encoder's vectors, in a folder of two files that only grow: `ids.u64` and `vectors.f16`.

    An id is written once its vector is on disk, so whatever was killed, every id has its vector, and the next run goes
    on behind the last one. A new day's texts join those of the days before. Processes that want the same texts wait
    for each other.
    """

    def __init__(self, folder: Path, width: int) -> None:
        self.folder, self.width = folder, width

    def table(self, texts: Sequence[str], encode: Encode, progress: Callable[[int], None] | None = None) -> VectorTable:
        """The vectors of `texts`, in their order; `encode` is given only those, once each, that are not on disk yet.

        `progress` is told how many texts are done since it was told last; equal texts are one.
        """
        id_T = np.fromiter((_id(text) for text in texts), np.uint64, count=len(texts))
        distinct, first = np.unique(id_T, return_index=True)
        with self._alone():
            new = first[~np.isin(distinct, self._ids())]
            if progress:
                progress(len(distinct) - len(new))
            # like lengths together, so that a batch holds little padding
            new = new[np.argsort([len(texts[i]) for i in new], kind="stable")]
            for start in range(0, len(new), SAVE_EVERY):
                part = new[start : start + SAVE_EVERY]
                self._append(id_T[part], encode([texts[i] for i in part]))
                if progress:
                    progress(len(part))
            known = self._ids()
        order = np.argsort(known)
        row_T = order[np.searchsorted(known, id_T, sorter=order)] if len(texts) else np.zeros(0, np.int64)
        return VectorTable(self._mapped(len(known)), row_T)

    def _append(self, ids: npt.NDArray[np.uint64], vector_RW: npt.NDArray[np.float32]) -> None:
        stored = os.path.getsize(self.folder / "ids.u64")
        for name, data, size in (("vectors.f16", vector_RW.astype(np.float16), 2 * self.width), ("ids.u64", ids, 8)):
            with (self.folder / name).open("r+b") as file:
                file.truncate(stored // 8 * size)  # what a kill left half-written goes
                file.seek(0, os.SEEK_END)
                file.write(data.tobytes())
                file.flush()
                os.fsync(file.fileno())

    def _ids(self) -> npt.NDArray[np.uint64]:
        path = self.folder / "ids.u64"
        return np.fromfile(path, np.uint64, count=os.path.getsize(path) // 8)

    def _mapped(self, number: int) -> npt.NDArray[np.float16]:
        if not number:
            return np.zeros((0, self.width), np.float16)
        return np.memmap(self.folder / "vectors.f16", np.float16, "r", shape=(number, self.width))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the folder until done; the files exist from here on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for name in ("ids.u64", "vectors.f16"):
                (self.folder / name).touch()
            yield


def _id(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
