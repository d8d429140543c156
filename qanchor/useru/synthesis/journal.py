"""Every user that an LLM is through with: a JSON line each, safe on disk at once, from which a killed run goes on.

The file may hold several lines of one key: of an attempt that is to be repeated, or of a profile that changed since.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import polars as pl

from qanchor.errors import DataError
from qanchor.events import atomic
from qanchor.useru.synthesis.interview import Findings
from qanchor.useru.synthesis.ledger import Tally
from qanchor.useru.synthesis.profile_text import ProfileText

KEY = ("user_id", "as_of", "profile")
COUNTS = ("kept", "revised", "dropped", "unsupported", "blots")
SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "user_id": pl.String,
    "as_of": pl.Int64,  # seconds
    "profile": pl.String,  # digest of what was sent
    "reason": pl.String,  # why there are no pairs; empty where there are
    "detail": pl.String,
    "again": pl.Boolean,  # whether a later run asks once more
    "pairs": pl.List(
        pl.Struct({"topic": pl.String, "query": pl.String, "answer": pl.String, "support": pl.List(pl.String)})
    ),
    **dict.fromkeys((*COUNTS, "requests", "prompt_tokens", "completion_tokens"), pl.Int64),
    "retries": pl.List(pl.String),
}
"""One line. Ids stay in this file, on this disk."""


class Journal:
    """Use as a context. Only one process at a time writes to a journal; its lock goes with it, however it ends.

    Raises:
        DataError: another run is writing to it, or a line in its middle cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            atomic.write(path, b"")
        self._file = path.open("r+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._cut_torn_line()
            lines = self.lines(*KEY, "again", "requests", "prompt_tokens", "completion_tokens", "retries")
        except BlockingIOError:
            self._file.close()
            raise DataError(f"another run is writing to {path}: wait for it to end") from None
        except DataError:
            self._file.close()
            raise
        self._finished = set(lines.filter(~pl.col("again")).select(KEY).iter_rows())
        self.spent = tally(lines)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def finished(self, profile: ProfileText) -> bool:
        """Whether this very text was asked about, and need not be again."""
        return (profile.user_id, profile.as_of, profile.digest) in self._finished

    def add(
        self,
        profile: ProfileText,
        findings: Findings,
        took: Tally,
        reason: str = "",
        detail: str = "",
        again: bool = False,
    ) -> None:
        """Enter a user; when this returns, no crash can undo it. Users without a `reason` have pairs."""
        line = {
            "user_id": profile.user_id,
            "as_of": profile.as_of,
            "profile": profile.digest,
            "reason": reason,
            "detail": detail,
            "again": again,
            **asdict(findings),
            "blots": profile.blots,
            **asdict(took),
            "retries": sorted(took.retries.elements()),
        }
        self._file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def lines(self, *columns: str) -> pl.DataFrame:
        """Every line in the order of writing, all of `SCHEMA` or some of its columns."""
        schema = {name: SCHEMA[name] for name in columns or SCHEMA}
        if not self.path.stat().st_size:
            return pl.DataFrame(schema=schema)
        try:
            return pl.read_ndjson(self.path, schema=schema)
        except pl.exceptions.PolarsError as error:
            said = " ".join(str(error).split())
            raise DataError(f"{self.path} is damaged ({said:.200}): mend the line or remove the file") from None

    def _cut_torn_line(self) -> None:
        """What a killed run left unfinished at the end."""
        if self._file.seek(0, os.SEEK_END):
            with mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                whole = view.rfind(b"\n") + 1
            self._file.truncate(whole)
            self._file.seek(whole)


def tally(lines: pl.DataFrame) -> Tally:
    """What these lines took together."""
    requests, prompt, completion = lines.select(pl.col("requests", "prompt_tokens", "completion_tokens").sum()).row(0)
    return Tally(requests, prompt, completion, Counter(lines["retries"].explode().drop_nulls().to_list()))
