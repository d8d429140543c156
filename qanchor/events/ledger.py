"""Which source files a store has taken in, so that an unchanged file is not read again."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from qanchor import storage
from qanchor.config import Config, Source
from qanchor.errors import DataError
from qanchor.events import atomic
from qanchor.storage import Place, Stamp

Fingerprint = dict[str, int | str]


@dataclass(frozen=True)
class SourceFile:
    """A log file and every source of the config that reads it; as a whole it is one *part* of the days it touches."""

    part: str
    """Its path relative to the config's folder, or its address."""
    path: Place
    stamp: Stamp
    """As it was listed, before reading: a file that grows meanwhile is read again by the next run."""
    sources: tuple[Source, ...]

    def fingerprint(self) -> Fingerprint:
        """Changes when the file does, or when what the config makes of it does."""
        made_of = json.dumps([source.model_dump() for source in self.sources], sort_keys=True)
        digest = hashlib.blake2b(made_of.encode(), digest_size=8).hexdigest()
        return {**self.stamp, "sources": digest}


def source_files(config: Config) -> list[SourceFile]:
    """Every file of the config's sources, sorted by part. Raises DataError when a source's pattern matches none."""
    found: dict[str, tuple[Place, Stamp]] = {}
    read_by: dict[str, list[Source]] = {}
    for source in config.sources:
        files = storage.files(source.path, config.root)
        if not files:
            raise DataError(f"no file matches `path: {source.path}` in {config.root}: mend the source's path")
        for path, stamp in files.items():
            part = _part(path, config.root)
            found.setdefault(part, (path, stamp))
            read_by.setdefault(part, []).append(source)
    return [SourceFile(part, *found[part], tuple(read_by[part])) for part in sorted(found)]


def _part(path: Place, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix() if isinstance(path, Path) else str(path)


class Ledger:
    """`ingested.json`: the last thing that an ingest writes."""

    def __init__(self, path: Place):
        self._path = path
        (written,) = storage.contents([path])
        self._entries = {} if written is None else json.loads(written)

    def knows(self, file: SourceFile) -> bool:
        return bool(self._entries.get(file.part) == file.fingerprint())

    def save(self, done: dict[str, Fingerprint], undone: set[str]) -> None:
        """Enter the parts that are published whole, by their fingerprints; strike those that are not."""
        kept = {part: entry for part, entry in self._entries.items() if part not in undone}
        self._entries = dict(sorted({**kept, **done}.items()))
        atomic.write_json(self._path, self._entries)
