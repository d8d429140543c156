"""Refused rows, written down one JSON line each with file, row and reason, and counted: never dropped in silence."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
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


def forget(folder: Place, user_ids: Sequence[str]) -> None:
    """Take every line out of a store's logs whose content names one of these users."""
    for path in _logs(folder):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if not names(json.loads(line)["content"], user_ids)]
        if kept != lines:
            atomic.write(path, "".join(kept).encode())


def count(folder: Place, user_ids: Sequence[str]) -> int:
    """Lines of a store's logs whose content names one of these users."""
    lines = (line for path in _logs(folder) for line in path.read_text(encoding="utf-8").splitlines())
    return sum(names(json.loads(line)["content"], user_ids) for line in lines)


def names(content: object, user_ids: Sequence[str]) -> bool:
    """Whether a refused row is one of these users': a cell of it is the id; of a broken line, some word."""
    cells = map(str, content.values()) if isinstance(content, dict) else re.split(r"[^\w.@+-]+", str(content))
    return not set(user_ids).isdisjoint(cells)


def _logs(folder: Place) -> list[Place]:
    return [*folder.glob("**/*.jsonl")]
