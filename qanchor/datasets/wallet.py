"""A simulated payment-wallet company: raw logs of users whose tastes we know, and the ten scenarios of Table 4.

`prepare` writes a whole project (logs, labels, qanchor.yaml), `simulate` the files alone; `oracle_table` is the
ceiling that no method can pass. How the world works: docs/decisions/0001-wallet.md.
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from sklearn.metrics import roc_auc_score, roc_curve

from qanchor.datasets.wallet_events import DAY, Events, events
from qanchor.datasets.wallet_files import FOLDERS, Logs, user_ids
from qanchor.datasets.wallet_oracle import probabilities
from qanchor.datasets.wallet_people import CHUNK, People, people, streams
from qanchor.datasets.wallet_world import START, Language, World, world
from qanchor.errors import DataError

LABELLED = ("fraud", "money")
"""Scenarios labelled by files: the risk pipeline's flags."""


def prepare(
    raw: Path, data_dir: Path | None = None, users: int = 8_000, seed: int = 0, language: Language = "en"
) -> Path:
    """Simulate 180 days and write `qanchor.yaml` beside the logs; returns its path.

    `data_dir` is not read: every data set's `prepare` is called alike. The same arguments give the same bytes.
    """
    simulate(raw, users, days=180, seed=seed, language=language, as_of_days=(90, 120, 150))
    config = raw / "qanchor.yaml"
    config.write_text(
        "# A simulated payment wallet, written by qanchor.datasets.wallet\n"
        + yaml.safe_dump(_config(world(language)), sort_keys=False, allow_unicode=True, width=120),
        encoding="utf-8",
    )
    return config


def simulate(
    out: Path,
    users: int,
    days: int = 120,
    seed: int = 0,
    language: Language = "en",
    as_of_days: Sequence[int] = (90,),
    predict_days: int = 30,
) -> None:
    """Write the company's files under `out`, replacing those of an earlier simulation.

    One folder a source with one Parquet file a month, `labels/{fraud,money}.parquet` (user_id, as_of, label) and
    `truth/oracle.parquet` (user_id, as_of, scenario, probability of the label given all latents at as_of, label).
    The first n users do not depend on how many come after them.

    Raises:
        DataError: a prediction window ends after the simulation.
    """
    if as_of_days and max(as_of_days) + predict_days > days:
        raise DataError(
            f"as_of day {max(as_of_days)} with {predict_days} days to predict, but only {days} days are simulated: "
            f"simulate at least {max(as_of_days) + predict_days} days"
        )
    for folder in (*FOLDERS, "labels", "truth"):
        shutil.rmtree(out / folder, ignore_errors=True)
        (out / folder).mkdir(parents=True)
    place = world(language)
    truths = []
    with Logs(out, place, days) as logs:
        for chunk, start in enumerate(range(0, users, CHUNK)):
            stream = streams(seed, chunk)
            crowd = people(place, np.arange(start, min(start + CHUNK, users)), -(-days // 7), stream)
            happened = events(place, crowd, days, stream)
            logs.write(crowd, happened, stream)
            truths += [_truth(place, crowd, happened, day, predict_days) for day in as_of_days]
    if truths:
        truth = pl.concat(truths)
        truth.write_parquet(out / "truth/oracle.parquet")
        for scenario in LABELLED:
            flags = truth.filter(scenario=scenario).select("user_id", "as_of", "label")
            flags.write_parquet(out / f"labels/{scenario}.parquet")


def oracle_table(raw: Path, keys: pl.DataFrame | None = None) -> pl.DataFrame:
    """How well the labels could be known: one row a scenario with its rate, mean probability, and oracle AUC and KS.

    `keys` [user_id, as_of] restricts the judgement to those rows. AUC and KS are null where all labels are the same.
    """
    truth = pl.read_parquet(raw / "truth/oracle.parquet")
    if keys is not None:
        truth = truth.join(keys.select("user_id", "as_of").unique(), on=["user_id", "as_of"], how="semi")
    rows = []
    for (scenario,), part in truth.group_by("scenario", maintain_order=True):
        label, probability = part["label"].to_numpy(), part["probability"].to_numpy()
        row = {"scenario": scenario, "rate": label.mean(), "probability": probability.mean()}
        if 0 < label.mean() < 1:
            false, true, _ = roc_curve(label, probability)
            row |= {"auc": roc_auc_score(label, probability), "ks": (true - false).max()}
        rows.append(row)
    schema = {"scenario": pl.String} | dict.fromkeys(("rate", "probability", "auc", "ks"), pl.Float64)
    return pl.DataFrame(rows, schema=schema)


def _truth(place: World, crowd: People, happened: Events, as_of: int, predict_days: int) -> pl.DataFrame:
    """What was to be known of the chunk's users at as_of, and what came true."""
    ahead = (happened.second >= as_of * DAY) & (happened.second < (as_of + predict_days) * DAY)
    ids = user_ids(crowd)
    time = dt.datetime.combine(START, dt.time()) + dt.timedelta(days=as_of)
    parts = []
    for scenario, probability in probabilities(place, crowd, as_of, predict_days).items():
        fired = happened.user[ahead & place.target(scenario)[happened.topic]]
        label = np.bincount(fired, minlength=len(crowd)) > 0
        part = {"user_id": ids, "probability": probability.round(6), "label": label.astype(np.int8)}
        parts.append(
            pl.DataFrame(part).select(
                "user_id",
                pl.lit(time, pl.Datetime("us")).alias("as_of"),
                pl.lit(scenario).alias("scenario"),
                "probability",
                "label",
            )
        )
    return pl.concat(parts)


def _config(place: World) -> dict[str, Any]:
    def date(day: int) -> dt.date:
        return START + dt.timedelta(days=day)

    return {
        "name": "wallet",
        "sources": [
            {"path": "bill/*.parquet", "user": "user_id", "time": "pay_time", "modality": "bill"}
            | {"text": "{merchant} ({mcc})", "category": "{mcc}", "value": "amount"},
            {"path": "transfer/*.parquet", "user": "uid", "time": "ts", "modality": "bill"}
            | {"text": "{kind}: {direction}, {payee}, {amount:band}", "category": "{kind}", "value": "amount"},
            {"path": "mini/*.parquet", "user": "uid", "time": "ts", "modality": "mini"}
            | {"text": "{program}: {page}", "category": "{industry}"},
            {"path": "spm/*.parquet", "user": "user_id", "time": "visit_time", "modality": "spm"}
            | {"text": "{path}", "category": "{site}", "value": "stay_seconds"},
            {"path": "app/*.parquet", "user": "uid", "time": "event_time", "modality": "app"}
            | {"text": "{action} {app_name}", "category": "{app_category}"},
            {"path": "search/*.parquet", "user": "user_id", "time": "ts", "modality": "search"}
            | {"text": "{query}", "category": "{vertical}"},
            {"path": "tabular/*.parquet", "user": "user_id", "time": "snapshot_date", "modality": "tabular"}
            | {"features": [place.words(column) for column in place.book["tabular"].values()]},
        ],
        "modalities": {"tabular": {"events": 8, "lookback_days": 31}},
        "windows": {
            "lookback_days": 90,
            "predict_days": 30,
            "train": [date(90), date(120)],
            "validation": [date(120)],
            "test": [date(150)],
        },
        "users": {"validation": 0.1, "test": 0.3},
        "scenarios": {name: _scenario(place, name) for name in place.book["scenarios"]},
        "useru": {"language": place.language},
    }


def _scenario(place: World, name: str) -> dict[str, Any]:
    entry = place.book["scenarios"][name]
    query: dict[str, Any] = {"query": place.words(entry), "statements": {"positive": place.words(entry["said"])}}
    if name in LABELLED:
        return query | {"labels": f"labels/{name}.parquet"}
    where: dict[str, Any] = {}
    if "in" in entry:
        where["modality"] = entry["in"]
    if "cat" in entry:
        where["category"] = [place.category(entry["cat"])]
    if "text" in entry:
        where["text"] = place.words(entry["text"])
    return query | {"label": {"where": where, "measure": "count", "at_least": 1}}
