"""What a project does every day: ingest what came in, embed who changed (section 3.2.4, Appendix E).

It uses the model that is there and never trains one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from qanchor.errors import ConfigError, DataError
from qanchor.events.cover import Covers
from qanchor.events.profile_store import ProfileStore
from qanchor.inference import lance, workers
from qanchor.inference.refresh import embed_shard, refresh_shard
from qanchor.inference.shard import Job, Scenario
from qanchor.inference.snapshot import Snapshot
from qanchor.inference.workers import Engine, Work
from qanchor.pipeline import Project
from qanchor.storage import Place


@dataclass(frozen=True)
class DayReport:
    """What an `embed` or a `refresh` came to, all shards together."""

    as_of: str
    users: int
    """Rows of each scenario's files, of the shards that were written,"""
    embedded: int
    """(user, scenario) pairs that were computed,"""
    carried: int
    """and those taken over from the last refresh."""
    set_aside: int
    up_to_date: int
    """Shards with nothing to do."""


class Daily:
    """The daily side of a project: `embeddings/as_of=.../` and `profiles/` of its run folder."""

    def __init__(self, project: Project, engine: Engine = "local", address: str | None = None) -> None:
        """`address` is that of a Ray cluster, where `engine` is one."""
        self.project, self.engine, self.address = project, engine, address

    @property
    def snapshots(self) -> Place:
        return self.project.storage / "embeddings"

    @property
    def kept(self) -> Place:
        return self.project.storage / "profiles"

    @property
    def covers(self) -> Covers:
        return self.project.covers

    def snapshot(self, as_of: dt.date) -> Snapshot:
        return Snapshot(self.snapshots, as_of, self.covers)

    @cached_property
    def profiles(self) -> ProfileStore:
        """Point reads of what refresh keeps."""
        config = self.project.config
        return ProfileStore(self.kept, config.shards, config.modality_names, self.covers)

    def embed(
        self,
        as_of: dt.date | None,
        names: Sequence[str],
        queries: Mapping[str, str],
        sink: Literal["parquet", "lance"] = "parquet",
    ) -> DayReport:
        """Every user of the population at `as_of`, for some scenarios (left out: all of the config) and free queries.

        `sink`: `lance` writes a data set for vector search beside the Parquet files.

        Raises:
            ConfigError: a scenario that the config does not name, or none at all; Lance is not installed.
            DataError: the store is empty.
            ModelError: there is no model, or it was not tuned for one of the scenarios.
        """
        if sink == "lance" and self.project.vault:
            raise ConfigError("Lance data sets cannot be sealed: leave `--sink lance` or `encrypt: true` out")
        self.project.ingest()
        job = self._job(as_of or self._today(), names, queries)
        report = self._run(embed_shard, job)
        if sink == "lance":
            self._to_lance(job)
        return report

    def refresh(self, day: dt.date | None) -> DayReport:
        """All scenarios of the config as of the midnight that ends `day` (left out: the last day with events).

        Raises:
            DataError: the project was refreshed to a later day already; otherwise as `embed`.
        """
        self.project.ingest()
        as_of = self._today() if day is None else day + dt.timedelta(days=1)
        return self._run(refresh_shard, self._job(as_of, (), {}))

    def _run(self, work: Work, job: Job) -> DayReport:
        stages, shards = self.project.stages, self.project.config.shards
        verb = work.__name__.removesuffix("_shard")
        with stages.progress(f"{verb} {job.as_of}", shards) as advance:
            reports = list(workers.run(work, job, shards, advance, self.engine, self.address))
        total = DayReport(
            as_of=str(job.as_of),
            users=sum(report.users for report in reports),
            embedded=sum(report.embedded for report in reports),
            carried=sum(report.carried for report in reports),
            set_aside=sum(report.set_aside for report in reports),
            up_to_date=sum(report.up_to_date for report in reports),
        )
        self.project.console.print(
            f"  {total.users:,} users as of {total.as_of}: {total.embedded:,} embeddings computed, {total.carried:,} "
            f"taken over, {total.set_aside:,} users set aside, {total.up_to_date} of {shards} shards up to date"
        )
        return total

    def _to_lance(self, job: Job) -> None:
        snapshot = self.snapshot(job.as_of)
        with self.project.stages.progress("lance", len(job.scenarios)) as advance:
            for scenario in job.scenarios:
                place = lance.write(snapshot, scenario.name, self.project.config.shards)
                advance(1, str(place))

    def _today(self) -> dt.date:
        days = self.project.store.days()
        if not days:
            raise DataError(f"no events in {self.project.storage / 'store'}: look at what `qanchor ingest` refused")
        return days[-1] + dt.timedelta(days=1)

    def _job(self, as_of: dt.date, names: Sequence[str], queries: Mapping[str, str]) -> Job:
        config, out = self.project.config, self.project.out
        unknown = [name for name in names if name not in config.scenarios]
        if unknown:
            known = ", ".join(config.scenarios) or "none"
            raise ConfigError(f"no scenario {unknown[0]!r} in the config; known are: {known}")
        chosen = names or ([] if queries else list(config.scenarios))
        scenarios = [Scenario(name, config.scenarios[name].query, True) for name in chosen]
        scenarios += [Scenario(name, query, False) for name, query in queries.items()]
        if not scenarios:
            raise ConfigError("nothing to embed for: name scenarios in the config, or give `--query NAME=QUESTION`")
        return Job(
            store=self.project.storage / "store",
            model=out / "model",
            snapshots=self.snapshots,
            profiles=self.kept,
            vectors=out / "vectors",
            modalities=config.modality_names,
            lookback_days={name: config.lookback_days(name) for name in config.modality_names},
            min_events=config.users.min_events,
            as_of=as_of,
            scenarios=tuple(scenarios),
            vault=self.project.vault,
        )
