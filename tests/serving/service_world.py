"""A tiny project that has been refreshed, ready to be served."""

from __future__ import annotations

import datetime as dt
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import torch
from conftest import tiny_towers
from daily_world import LOOKBACK, Row, some_rows
from rich.console import Console
from starlette.testclient import TestClient

from qanchor.config import parse
from qanchor.daily import Daily
from qanchor.events.profiles import Profiles
from qanchor.events.store import EventStore
from qanchor.inference.engine import QAnchor
from qanchor.model import persistence
from qanchor.model.prompts import SoftPrompt
from qanchor.pipeline import Project
from qanchor.serving.app import create
from qanchor.serving.audit import Audit
from qanchor.serving.door import Door
from qanchor.serving.keys import Keys
from qanchor.serving.limits import Limits
from qanchor.serving.service import Service
from qanchor.stages import Stages

QUERIES = {"coffee": "will this user buy coffee soon?", "rent": "is rent due?"}
FREE = "will this user stay at a hotel?"
START = 1_740_787_200
"""2025-03-01."""
DAY = 86_400


def save_model(folder: Path, seed: int = 0) -> None:
    towers = tiny_towers(seed, layers=1)
    torch.manual_seed(seed)
    fingerprint = persistence.fingerprint(towers)
    prompts = {
        name: SoftPrompt(name, query, torch.randn(3, 64), torch.zeros(2, 16), fingerprint)
        for name, query in QUERIES.items()
    }
    QAnchor(towers, prompts).save_pretrained(folder)


def log(root: Path, name: str, rows: list[Row]) -> None:
    (root / "logs").mkdir(parents=True, exist_ok=True)
    schema = {"user": pl.String, "time": pl.Int64, "word": pl.String, "value": pl.Float64}
    for modality in LOOKBACK:
        own = [(user, START + second, word, value) for user, second, m, word, value in rows if m == modality]
        pl.DataFrame(own, schema, orient="row").write_parquet(root / "logs" / f"{modality}-{name}.parquet")


def settings(encrypt: bool = False) -> dict[str, object]:
    """What a config file would say."""
    sources = [
        {"path": f"logs/{m}-*.parquet", "user": "user", "time": "time", "modality": m, "text": "{word}"}
        | {"value": "value"}
        for m in LOOKBACK
    ]
    return {
        "name": "world",
        "sources": sources,
        "modalities": {m: {"lookback_days": days} for m, days in LOOKBACK.items()},
        "windows": {"train": ["2025-02-01"], "validation": ["2025-02-01"], "test": ["2025-04-01"]},
        "shards": 2,
        "encrypt": encrypt,
        "scenarios": {
            name: {"query": query, "label": {"where": {"text": name}, "at_least": 1}} for name, query in QUERIES.items()
        },
    }


def daily(root: Path, encrypt: bool = False) -> Daily:
    return Daily(Project(parse(settings(encrypt), root), Stages(root / "run", Console(quiet=True))))


def refreshed(root: Path, day: int = 12) -> Daily:
    """A project with seven users, refreshed as of `day` days after START."""
    log(root, "all", some_rows(7, range(day)))
    save_model(root / "run" / "model")
    found = daily(root)
    found.refresh(None)
    return found


def profiles(daily: Daily, user_ids: list[str], moment: int) -> Profiles:
    """As the store has them."""
    store = EventStore.open(daily.project.config, daily.project.storage / "store")
    keys = pl.DataFrame({"user_id": user_ids}, schema={"user_id": pl.String})
    as_of = dt.datetime.fromtimestamp(moment, dt.UTC).replace(tzinfo=None)
    return store.profiles(keys.with_columns(as_of=pl.lit(as_of).cast(pl.Datetime("us"))))


def embedded(daily: Daily, user_ids: list[str], moment: int, scenarios=(), queries=()) -> np.ndarray:
    """[N, G, O] by the engine itself."""
    model = QAnchor.from_pretrained(daily.project.out / "model")
    return model.embed(profiles(daily, user_ids, moment), scenarios, queries)


@contextmanager
def serving(daily: Daily, folder: Path, rate: float = 1e6, scopes: dict[str, list[str]] | None = None, **settings):
    """A client of a service in this process, with a key that may do everything as `client.key`, and others by name."""
    keys = Keys(folder / "keys.json")
    everything = ["embed:*", "score:*", "search:*", "append", "forget", "admin"]
    made = {
        name: keys.add(name, own, dt.timedelta(days=1)).reveal()
        for name, own in {"everything": everything, **(scopes or {})}.items()
    }
    service = Service(daily, **settings)
    door = Door(keys, None, Limits(rate, 2 * rate), Audit(folder / "audit"))
    with TestClient(create(service, door), raise_server_exceptions=False) as client:
        client.headers["authorization"] = f"Bearer {made['everything']}"
        client.keys, client.service = made, service
        yield client


def look(client: TestClient) -> None:
    """Have the service look for something new at once."""
    client.portal.call(client.service.look)


def vectors(reply) -> np.ndarray:
    assert reply.status_code == 200, reply.text
    return np.array([item["embedding"] for item in reply.json()["data"]], np.float32)
