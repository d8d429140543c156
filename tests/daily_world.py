"""A tiny model, a few users' logs day by day, and the daily job over them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from conftest import WORDS, tiny_towers

from qanchor.config import Config, parse
from qanchor.events.ingest import ingest
from qanchor.inference.engine import QAnchor
from qanchor.inference.refresh import ShardReport, embed_shard, refresh_shard
from qanchor.inference.shard import Job, Scenario
from qanchor.inference.snapshot import Snapshot
from qanchor.model import persistence
from qanchor.model.batch import FOR_LINES, TALLY
from qanchor.model.prompts import SoftPrompt
from qanchor.model.readout import CUTS, LEAVES, Readout
from qanchor.model.vocabulary import Vocabulary

START = dt.date(2025, 3, 1)
LOOKBACK = {"bill": 9, "mini": 4}
SHARDS = 2
COFFEE = Scenario("coffee", "will this user buy coffee soon?", True)
RENT = Scenario("rent", "is rent due?", False)

Row = tuple[str, int, str, str, float | None]
"""user, seconds since START, modality, word, value."""


def save_model(folder: Path) -> Path:
    """An untrained model with one tuned scenario, whose readout looks at all of a tally, words among it."""
    towers = tiny_towers(layers=1)
    persistence.teach(towers, Vocabulary(tuple(WORDS)))
    torch.manual_seed(1)
    prompt, made_by = torch.randn(3, 64), persistence.fingerprint(towers)
    line_RV = torch.randn(3, TALLY - FOR_LINES.start + sum(towers.own))
    feature_CTK, cut_CTK = torch.randint(len(WORDS), (1, 9, CUTS)), torch.rand(1, 9, CUTS)
    readout = Readout(line_RV, feature_CTK, cut_CTK, torch.randn(1, 9, LEAVES))
    tuned = {"coffee": SoftPrompt("coffee", COFFEE.query, prompt, torch.zeros(2, 16), made_by, readout)}
    QAnchor(towers, tuned).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class World:
    """One project: logs, store, model, and where the daily job leaves what it makes."""

    root: Path
    model: Path

    @property
    def config(self) -> Config:
        sources = [
            {"path": f"logs/{m}-*", "user": "user", "time": "time", "modality": m, "text": "{word}", "value": "value"}
            for m in LOOKBACK
        ]
        data = {
            "name": "world",
            "sources": sources,
            "modalities": {m: {"lookback_days": days} for m, days in LOOKBACK.items()},
            "windows": {"train": ["2025-02-01"], "validation": ["2025-02-01"], "test": ["2025-04-01"]},
            "shards": SHARDS,
        }
        return parse(data, self.root)

    def log(self, name: str, rows: list[Row]) -> None:
        """Replace the log files of this name and ingest them."""
        (self.root / "logs").mkdir(parents=True, exist_ok=True)
        for modality in LOOKBACK:
            own = [
                {"user": user, "time": 1_740_787_200 + second, "word": word, "value": value}
                for user, second, m, word, value in rows
                if m == modality
            ]
            schema = {"user": pl.String, "time": pl.Int64, "word": pl.String, "value": pl.Float64}
            pl.DataFrame(own, schema).write_parquet(self.root / "logs" / f"{modality}-{name}.parquet")
        ingest(self.config, self.root / "store")

    def job(self, day: int, *scenarios: Scenario, to: str = "out") -> Job:
        """As of `day` days after START."""
        return Job(
            store=self.root / "store",
            model=self.model,
            snapshots=self.root / to / "embeddings",
            profiles=self.root / to / "profiles",
            vectors=None,
            modalities=tuple(LOOKBACK),
            lookback_days=LOOKBACK,
            min_events=1,
            as_of=START + dt.timedelta(days=day),
            scenarios=scenarios or (COFFEE, RENT),
        )


def refresh(job: Job) -> list[ShardReport]:
    return [refresh_shard(job, shard) for shard in range(SHARDS)]


def embed(job: Job) -> list[ShardReport]:
    return [embed_shard(job, shard) for shard in range(SHARDS)]


def rows(job: Job) -> dict[tuple[str, str], bytes]:
    """(scenario, user) -> the bytes of the embedding, of all files of the job's as_of."""
    found = {}
    snapshot = Snapshot(job.snapshots, job.as_of)
    for scenario in job.scenarios:
        for shard in range(SHARDS):
            user_N, embedding_NO = snapshot.read(scenario.name, shard)
            assert user_N.to_pylist() == sorted(user_N.to_pylist())
            for user, row_O in zip(user_N.to_pylist(), embedding_NO, strict=True):
                assert (scenario.name, user) not in found
                found[scenario.name, user] = row_O.tobytes()
    return found


def some_rows(users: int, days: range) -> list[Row]:
    """Regular habits: user n is seen every n + 1 days, in both modalities."""
    return [
        (f"u{n}", day * 86_400 + 3_600 * n + second, modality, WORDS[(n + day) % len(WORDS)], float(n))
        for n in range(users)
        for day in days
        if day % (n + 1) == 0
        for modality, second in (("bill", 0), ("mini", 60))
    ]
