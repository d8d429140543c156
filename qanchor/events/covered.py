"""Whole files under a cover, read and written like those of `storage` and `atomic`.

A sealed file: magic (8 bytes), an id of its own (16), then its content in chunks, each sealed by itself, so that a
reader of Parquet opens the chunks that it asks for. What is authenticated with each: the file's place (day, scenario,
shard), its id, the chunk's number and the file's size. So nothing can be changed, cut off, added, reordered, or taken
from another file.

A run folder may be moved; a file in it may not.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from qanchor import storage
from qanchor.errors import SealError
from qanchor.events import atomic
from qanchor.events.cover import Cover, context
from qanchor.storage import Place

MAGIC = b"QASEALED"
ID = 16
CHUNK = 1 << 18
"""Bytes of content: whoever wants the footer alone opens two of them."""


def write(path: Place, data: bytes, cover: Cover) -> None:
    """Replace a file in one step, as `atomic.write`."""
    atomic.write(path, seal(data, cover, path) if cover.sealed else data)


def whole(path: Place, cover: Cover) -> str | IO[bytes]:
    """As `storage.whole`. Raises SealError, which names the file: it is not what was sealed there."""
    if not cover.sealed:
        return storage.whole(path)
    return io.BytesIO(read(path, cover) or b"")


def read(path: Place, cover: Cover) -> bytes | None:
    """A file's content, None where there is none. Raises SealError as `whole`."""
    (data,) = storage.contents([path])
    if data is None or not cover.sealed:
        return data
    return _Sealed(io.BytesIO(data), cover, path).readall()


@contextmanager
def opened(path: Place, cover: Cover) -> Iterator[str | IO[bytes]]:
    """As `storage.opened`; the reader gets SealError where it comes upon what was not sealed there."""
    with storage.opened(path) as file:
        if not cover.sealed:
            yield file
            return
        with open(file, "rb") if isinstance(file, str) else file as handle:
            yield io.BufferedReader(_Sealed(handle, cover, path))


def seal(data: bytes, cover: Cover, path: Place) -> bytes:
    id = os.urandom(ID)
    parts = [data[start : start + CHUNK] for start in range(0, max(1, len(data)), CHUNK)]
    return b"".join([MAGIC, id, *(cover.seal(part, _place(path, id, n, len(data))) for n, part in enumerate(parts))])


class _Sealed(io.RawIOBase):
    """The content of a sealed file; one chunk of it in memory."""

    def __init__(self, file: IO[bytes], cover: Cover, path: Place) -> None:
        self._file, self._cover, self._path = file, cover, path
        head = file.read(len(MAGIC) + ID)
        if head[: len(MAGIC)] != MAGIC:
            raise SealError(
                f"{path} is not sealed, and the config says `encrypt: true`: delete it and run the same command again"
            )
        self._id, self._start = head[len(MAGIC) :], len(head)
        # what sealing adds to a chunk: known from one of nothing
        self._more = len(cover.seal(b"", b""))
        length = file.seek(0, os.SEEK_END) - self._start
        chunks = max(1, -(-length // (CHUNK + self._more)))
        self._size = length - chunks * self._more
        # a file that was cut has another size than its chunks were sealed for: seen at once
        self._at, self._n, self._chunk = 0, 0, self._open(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._at >= self._size:
            return 0
        n, start = divmod(self._at, CHUNK)
        if n != self._n:
            self._n, self._chunk = n, self._open(n)
        part = self._chunk[start : start + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)

    def _open(self, n: int) -> bytes:
        self._file.seek(self._start + n * (CHUNK + self._more))
        try:
            return self._cover.open(self._file.read(CHUNK + self._more), _place(self._path, self._id, n, self._size))
        except SealError as error:
            raise SealError(f"{self._path}: {error}") from None


def _place(path: Place, id: bytes, n: int, size: int) -> bytes:
    day, scenario, name = path.parts[-3:]
    own = (day, scenario, name) if day.startswith("as_of=") else (name,)
    return context(*own, id.hex(), str(n), str(size))
