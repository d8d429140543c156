"""Refused rows, written down one JSON line each with file, row and reason, and counted: never dropped in silence."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from qanchor.events import atomic
from qanchor.events.rows import Reject
from qanchor.storage import Place


class RejectLog:
    """The refused rows of one source file: `rejects/PART.jsonl`, which replaces the file's former one when closed."""

    def __init__(self, folder: Place, part: str, scratch: Path):
        # a log outside the config's folder must not lead out of ours
        self._path = folder / (part.replace("../", "up/").replace("://", "/").lstrip("/") + ".jsonl")
        self._temporary = scratch / f"rejects{atomic.TEMPORARY}"
        self._file = self._temporary.open("w", encoding="utf-8")
        self._part = part
        self.reasons: Counter[str] = Counter()
        self.days: Counter[int] = Counter()
        """Refused rows by the day that they belong to (since 1970-01-01)."""
        self.dayless = 0

    def add(self, rejects: Iterable[Reject]) -> None:
        for reject in rejects:
            self._write(reject.row, reject.reason, reject.column, reject.content)
            if reject.day is None:
                self.dayless += 1
            else:
                self.days[reject.day] += 1

    def refuse_file(self, reason: str, detail: str) -> None:
        """The file as a whole: its rows count for no day."""
        self._write(None, reason, None, detail)
        self.days.clear()

    def __enter__(self) -> RejectLog:
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        self._file.close()
        if self.reasons and not failed:
            atomic.switch(self._temporary, self._path)
            return
        self._temporary.unlink()
        if not failed:
            atomic.remove(self._path)

    def _write(self, row: int | None, reason: str, column: str | None, content: object) -> None:
        self.reasons[reason] += 1
        line = {"file": self._part, "row": row, "reason": reason, "column": column, "content": content}
        self._file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
