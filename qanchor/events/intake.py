"""One source file, read once and staged; or refused as a whole."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import polars as pl

from qanchor.config import Config, Source
from qanchor.events import times
from qanchor.events.forgotten import Forgotten
from qanchor.events.ledger import Fingerprint, SourceFile
from qanchor.events.partitions import Partitions
from qanchor.events.rejects import RejectLog, names
from qanchor.events.rows import Parser, user_ids
from qanchor.events.sources import Batch, FileRefusedError, format_of, read
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
    forgotten: int = 0
    """Rows of forgotten users: neither published nor written down anywhere."""
    refused: str | None = None


@dataclass(frozen=True)
class Intake:
    config: Config
    store: Partitions
    staging: Staging
    texts: TextTable
    forgotten: Forgotten
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
                known = self._without_forgotten(batch, source, outcome)
                events, rejects = parser.parse(known)
                log.add(rejects)
                self.staging.add(file.part, events)
                rows = len(batch.rows) + len(batch.broken)
                outcome.rows += rows
                self.progress("read", rows)

    def _without_forgotten(self, batch: Batch, source: Source, outcome: Outcome) -> Batch:
        """Before anything is made of their rows: not even a text, or a refusal, is to stay."""
        users = user_ids(batch.rows[source.user])
        gone = self.forgotten.among(users)
        if not gone:
            return batch
        stays = ~users.is_in(gone).fill_null(False)
        outcome.forgotten += len(stays) - int(stays.sum())
        broken = [row for row in batch.broken if not names(row.content, gone)]
        return Batch(batch.rows.filter(stays), batch.numbers[stays.to_numpy()], broken)

    def _expect_times(self, outcome: Outcome, log: RejectLog) -> None:
        """Rows that belong to a day count against that day; those that belong to none, against the file."""
        if log.dayless > self.config.max_reject_rate * outcome.rows:
            raise FileRefusedError("too many rejects", f"{log.dayless} of {outcome.rows} rows have no usable time")
