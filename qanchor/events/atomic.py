"""Files that are either old or new, never half: write beside, sync, switch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp"
"""Ending of a file that is still being written; whoever finds one after a crash may delete it."""


def write(path: Path, data: bytes, sync_folder: bool = True) -> None:
    """Replace `path` by `data` in one step that a crash cannot split, making its folder where it is missing.

    Without `sync_folder` the new name is only sure to outlive a power cut once another file of the folder is written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + TEMPORARY)
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    switch(temporary, path, sync_folder)


def write_json(path: Path, data: Any) -> None:
    write(path, (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode())


def switch(new: Path, path: Path, sync_folder: bool = True) -> None:
    """Rename `new` to `path`, and sync the folder, so that the rename outlives a power cut."""
    os.replace(new, path)
    if not sync_folder:
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
