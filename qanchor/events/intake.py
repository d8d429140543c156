"""One source file, read once and staged; or refused as a whole."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import polars as pl

from qanchor.config import Config
from qanchor.events import times
from qanchor.events.ledger import Fingerprint, SourceFile
from qanchor.events.partitions import Partitions
from qanchor.events.rejects import RejectLog
from qanchor.events.rows import Parser
from qanchor.events.sources import FileRefusedError, format_of, read
from qanchor.events.staging import Staging
from qanchor.events.texts import TextTable

Progress = Callable[[str, int], None]
"""Called with ("read", rows) after each batch and ("publish", 1) after each day."""


@dataclass
class Outcome:
    """What reading one file came to."""

    file: SourceFile
    fingerprint: Fingerprint
    rows: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    days: Counter[int] = field(default_factory=Counter)
    """Refused rows by the day that they belong to."""
    refused: str | None = None


@dataclass(frozen=True)
class Intake:
    config: Config
    store: Partitions
    staging: Staging
    texts: TextTable
    progress: Progress
    latest: int = field(default_factory=lambda: times.latest(dt.datetime.now(dt.UTC)))

    def read(self, file: SourceFile) -> Outcome:
        """Stage one file; when it is refused, none of its rows stays staged."""
        outcome = Outcome(file, file.fingerprint())
        with RejectLog(self.store.root / "rejects", file.part, self.staging.folder) as log:
            try:
                self._stage(file, outcome, log)
                self._expect_times(outcome, log)
            except (FileRefusedError, pl.exceptions.PolarsError) as error:
                # what polars cannot cast is a column of lists, of bytes or the like
                refusal = error if isinstance(error, FileRefusedError) else FileRefusedError("wrong type", str(error))
                outcome.refused = str(refusal)
                log.refuse_file(refusal.reason, refusal.detail)
                self.staging.drop(file.part)
            outcome.reasons, outcome.days = log.reasons, log.days
        return outcome

    def _stage(self, file: SourceFile, outcome: Outcome, log: RejectLog) -> None:
        for source in file.sources:
            modality = self.store.modalities.index(source.modality)
            parser = Parser(source, modality, self.latest, self.texts)
            for batch in read(file.path, format_of(file.path, source.format), parser.columns):
                events, rejects = parser.parse(batch)
                log.add(rejects)
                self.staging.add(file.part, events)
                rows = len(batch.rows) + len(batch.broken)
                outcome.rows += rows
                self.progress("read", rows)

    def _expect_times(self, outcome: Outcome, log: RejectLog) -> None:
        """Rows that belong to a day count against that day; those that belong to none, against the file."""
        if log.dayless > self.config.max_reject_rate * outcome.rows:
            raise FileRefusedError("too many rejects", f"{log.dayless} of {outcome.rows} rows have no usable time")
