"""Which source files a store has taken in, so that an unchanged file is not read again."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from qanchor.config import Config, Source
from qanchor.errors import DataError
from qanchor.events import atomic

Fingerprint = dict[str, int | str]


@dataclass(frozen=True)
class SourceFile:
    """A log file and every source of the config that reads it; as a whole it is one *part* of the days it touches."""

    part: str
    """Its path relative to the config's folder."""
    path: Path
    sources: tuple[Source, ...]

    def fingerprint(self) -> Fingerprint:
        """Changes when the file does, or when what the config makes of it does."""
        stat = self.path.stat()
        made_of = json.dumps([source.model_dump() for source in self.sources], sort_keys=True)
        digest = hashlib.blake2b(made_of.encode(), digest_size=8).hexdigest()
        return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sources": digest}


def source_files(config: Config) -> list[SourceFile]:
    """Every file of the config's sources, sorted by path. Raises DataError when a source's pattern matches none."""
    sources: dict[str, list[Source]] = {}
    for source in config.sources:
        found = glob.glob(str(config.root / source.path), recursive=True)
        if not found:
            raise DataError(f"no file matches `path: {source.path}` in {config.root}: mend the source's path")
        for path in filter(os.path.isfile, found):
            sources.setdefault(os.path.normpath(path), []).append(source)
    return [
        SourceFile(Path(os.path.relpath(path, config.root)).as_posix(), Path(path), tuple(read_by))
        for path, read_by in sorted(sources.items())
    ]


class Ledger:
    """`ingested.json`: the last thing that an ingest writes."""

    def __init__(self, path: Path):
        self._path = path
        self._entries = json.loads(path.read_text()) if path.exists() else {}

    def knows(self, file: SourceFile) -> bool:
        return bool(self._entries.get(file.part) == file.fingerprint())

    def save(self, done: dict[str, Fingerprint], undone: set[str]) -> None:
        """Enter the parts that are published whole, by their fingerprints; strike those that are not."""
        kept = {part: entry for part, entry in self._entries.items() if part not in undone}
        self._entries = dict(sorted({**kept, **done}.items()))
        atomic.write_json(self._path, self._entries)
