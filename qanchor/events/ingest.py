"""Logs in, day partitions out (D1-D3): read and stage every changed file, then publish each touched day, once.

A source file is a *part* of the days it touches. Taking it in again replaces its rows in every day that it ever
touched, so twice is once, a changed file replaces its old self, and late rows in a new file join their own old day.
Killed at any moment, each day is old or new, and a rerun completes it: the ledger is written last.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import Counter
from dataclasses import dataclass

from qanchor import storage
from qanchor.config import Config
from qanchor.errors import RejectRateError
from qanchor.events import atomic
from qanchor.events.forgotten import Forgotten
from qanchor.events.intake import Intake, Outcome, Progress
from qanchor.events.ledger import Ledger, SourceFile, source_files
from qanchor.events.lock import alone
from qanchor.events.partitions import Partitions, date_of
from qanchor.events.publish import Published, Publisher
from qanchor.events.staging import Staging
from qanchor.events.texts import TextTable
from qanchor.storage import Place


@dataclass(frozen=True)
class IngestReport:
    """What one ingest did; also left as `report.json` in the store."""

    files_read: list[str]
    files_skipped: list[str]
    """Unchanged since they were taken in."""
    files_refused: dict[str, str]
    """Why: a broken file, a missing column, or too many rows without a usable time. Their old rows stay."""
    rows: int
    """Rows read, refused ones included."""
    events: int
    """Events of this run that were published."""
    rejects: dict[str, int]
    """Refused rows (and files) by reason; each is described in `rejects/`, but for those of forgotten users."""
    days_published: list[dt.date]
    days_refused: dict[dt.date, float]
    """The share of refused rows that kept each from being published; their old content stays."""


def ingest(config: Config, store_root: Place, progress: Progress | None = None) -> IngestReport:
    """Bring the store at `store_root` up to date with the config's sources.

    Raises:
        ConfigError: a template that cannot be read or prints a raw number; nothing was published.
        DataError: a source without files; a store cut into other shards or modalities; another ingest at work; a
            bucket that does not answer.
        CollisionError: two texts with one id; nothing was published.
        RejectRateError: files or days were refused, all others are published; `report.json` lists them.
    """
    on_progress = progress or (lambda stage, done: None)
    store = Partitions.prepare(store_root, config.shards, config.modality_names)
    with storage.scratch(store_root) as scratch, alone(store_root):
        files, ledger = source_files(config), Ledger(store_root / "ingested.json")
        changed = [file for file in files if not ledger.knows(file)]
        staging, texts = Staging(scratch / "staging", config.shards), TextTable(store.texts)
        intake = Intake(config, store, staging, texts, Forgotten(store_root), on_progress)
        outcomes = [intake.read(file) for file in changed]
        # texts first: no published event may point to a text that is not there
        store.found()
        texts.save()
        taken = {outcome.file.part: outcome for outcome in outcomes if outcome.refused is None}
        # from here on these files are neither their old nor their new selves, should we be killed
        ledger.save({}, set(taken))
        days = []
        for day in Publisher(store, staging, taken, config.max_reject_rate).publish():
            days.append(day)
            on_progress("publish", 1)
        _enter(ledger, taken, days)
        report = _report(files, outcomes, days)
        _save(report, store_root / "report.json")
        staging.clear()
    _raise_refusals(report, config.max_reject_rate, store_root)
    return report


def _enter(ledger: Ledger, taken: dict[str, Outcome], days: list[Published]) -> None:
    """Only what is published whole counts as done; a file that touches a refused day is read again next time."""
    unfinished = {part for day in days if day.refused for part in day.parts}
    done = {part: outcome.fingerprint for part, outcome in taken.items() if part not in unfinished}
    ledger.save(done, unfinished)


def _report(files: list[SourceFile], outcomes: list[Outcome], days: list[Published]) -> IngestReport:
    read = [outcome.file.part for outcome in outcomes]
    reasons: Counter[str] = sum((outcome.reasons for outcome in outcomes), Counter())
    reasons += Counter({"forgotten user": sum(outcome.forgotten for outcome in outcomes)})
    return IngestReport(
        files_read=read,
        files_skipped=[file.part for file in files if file.part not in set(read)],
        files_refused={outcome.file.part: outcome.refused for outcome in outcomes if outcome.refused is not None},
        rows=sum(outcome.rows for outcome in outcomes),
        events=sum(day.events for day in days if not day.refused),
        rejects=dict(sorted(reasons.items())),
        days_published=[date_of(day.day) for day in days if not day.refused],
        days_refused={date_of(day.day): day.reject_rate for day in days if day.refused},
    )


def _save(report: IngestReport, path: Place) -> None:
    data = dataclasses.asdict(report)
    data["days_published"] = [str(day) for day in report.days_published]
    data["days_refused"] = {str(day): share for day, share in report.days_refused.items()}
    atomic.write_json(path, data)


def _raise_refusals(report: IngestReport, limit: float, root: Place) -> None:
    what = [f"{part} ({why})" for part, why in report.files_refused.items()]
    what += [f"{day} ({share:.1%} refused)" for day, share in report.days_refused.items()]
    if what:
        more = f" and {len(what) - 3} more" if len(what) > 3 else ""
        raise RejectRateError(
            f"not published: {', '.join(what[:3])}{more}; expected at most {limit:.1%} refused rows in a day: "
            f"see {root / 'rejects'}, mend the logs or the config (or raise `max_reject_rate`), and ingest again"
        )
