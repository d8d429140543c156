"""Files that are either old or new, never half: on a disk write beside, sync, switch; in an object store one PUT."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from qanchor import storage
from qanchor.storage import Place

TEMPORARY = ".tmp"
"""Ending of a file that is still being written; whoever finds one after a crash may delete it."""


def write(path: Place, data: bytes, sync_folder: bool = True) -> None:
    """Replace `path` by `data` in one step that a crash cannot split, making its folder where it is missing.

    Raises DataError, like the others here, when a remote store does not answer.

    Without `sync_folder` the new name is only sure to outlive a power cut once another file of the folder is written.
    """
    if not isinstance(path, Path):
        with storage.reaching(path):
            path.fs.pipe_file(path.path, bytes(data))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + TEMPORARY)
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    switch(temporary, path, sync_folder)


def write_json(path: Place, data: Any) -> None:
    write(path, (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode())


def remove(path: Place) -> None:
    """Remove a file if it is there."""
    if isinstance(path, Path):
        path.unlink(missing_ok=True)
        return
    with storage.reaching(path), suppress(FileNotFoundError):
        path.fs.rm_file(path.path)


def switch(new: Path, path: Place, sync_folder: bool = True) -> None:
    """Move the local file `new` to `path`, and sync the folder, so that the rename outlives a power cut."""
    if not isinstance(path, Path):
        with storage.reaching(path):
            path.fs.put_file(str(new), path.path)
        new.unlink()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(new, path)
    if not sync_folder:
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
