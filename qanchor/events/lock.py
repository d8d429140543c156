"""One writer of a store at a time."""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from upath import UPath

from qanchor import storage
from qanchor.errors import DataError
from qanchor.events import atomic
from qanchor.storage import Place


@contextmanager
def alone(root: Place) -> Iterator[None]:
    """Hold the store's `ingest.lock`. Raises DataError when another holds it, or a remote store does not answer."""
    path = root / "ingest.lock"
    with _locked(path) if isinstance(path, Path) else _created(path):
        yield


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The lock goes with the process, however it ends."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"another ingest is writing to {path.parent}: wait for it to end") from None
        yield


@contextmanager
def _created(path: UPath) -> Iterator[None]:
    """The lock is an object that only one can create; a killed process leaves it, and then a person must look.

    It is never taken over because of its age: nobody can tell a slow writer from a dead one.
    """
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    owner = {"host": socket.gethostname(), "process": os.getpid(), "since": now}
    try:
        with storage.reaching(path):
            path.fs.pipe_file(path.path, json.dumps(owner).encode(), mode="create")
    except FileExistsError:
        (found,) = storage.contents([path])
        raise DataError(
            f"another ingest is writing to {path.parent} ({(found or b'it has just ended').decode()}): wait for it to "
            f"end; if it was killed, delete {path}"
        ) from None
    try:
        yield
    finally:
        atomic.remove(path)
