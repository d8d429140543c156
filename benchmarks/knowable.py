"""How much of the wallet's oracle can be known from logs: `python benchmarks/knowable.py --users 100000` prints a table
and JSON.

The oracle knows every user's latents; a model sees some 80 events that they caused. So a network is taught with what no
model has: the topic of every event as the simulator knows it (no text has to be read), the oracle's own probability as
its target (no chance in the labels), and up to a hundred thousand people of another wallet. How well it tells the
bench's own test users, as the number of people grows, is what there is to be known, or a little less. Beside it: trees
on the same numbers of the bench's own training users and their labels, which is what labels and so few users cost.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from qanchor.baselines.boosted import Boosted
from qanchor.datasets.wallet_events import DAY, Events, events
from qanchor.datasets.wallet_oracle import probabilities
from qanchor.datasets.wallet_people import CHUNK, People, people, streams
from qanchor.datasets.wallet_world import START, World, world
from qanchor.pipeline import prepared
from qanchor.probe.metrics import auc, ks

LOOKBACK, AHEAD, AS_OF = 90, 30, (90, 120, 150)
HALF_LIVES = (4.0, 14.0, 45.0, np.inf)
"""Days after which an event counts half."""
TRAITS = 3
"""Age, income and city size are logged, family and thrift are not."""
EPOCHS, BATCH, WIDTH, LR = 12, 512, 384, 1e-3
SEEDS = (0, 1)
"""Networks whose scores are averaged."""

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Known:
    """R rows (a user at an as_of day): what is known of them, and what is to be told."""

    number_R: npt.NDArray[np.int64]
    x_RX: Array
    probability_RC: Array


def simulated(place: World, users: int, seed: int, as_of: tuple[int, ...]) -> Iterator[Known]:
    """Chunk by chunk, as `wallet.simulate` draws them."""
    for chunk, start in enumerate(range(0, users, CHUNK)):
        stream = streams(seed, chunk)
        days = max(AS_OF) + AHEAD
        crowd = people(place, np.arange(start, min(start + CHUNK, users)), -(-days // 7), stream)
        happened = events(place, crowd, days, stream)
        for day in as_of:
            told = probabilities(place, crowd, day, AHEAD)
            yield Known(
                crowd.number, features(place, crowd, happened, day), np.stack(list(told.values()), 1, dtype=np.float32)
            )


def features(place: World, crowd: People, happened: Events, as_of: int) -> Array:
    """[U, X] log counts of each topic before `as_of`, by half-life; traits, tenure, and the hour people keep."""
    age = as_of - happened.second / DAY
    seen = (age > 0) & (age <= LOOKBACK)
    topics = len(place.base)
    cell = happened.user[seen] * topics + happened.topic[seen]
    counts = [
        np.bincount(cell, 0.5 ** (age[seen] / half_life), len(crowd) * topics).reshape(len(crowd), topics)
        for half_life in HALF_LIVES
    ]
    own = np.concatenate([crowd.traits[:, :TRAITS], crowd.tenure[:, None] / 24, crowd.shift[:, None]], 1)
    sums = [np.log1p(each.sum(1, keepdims=True)) for each in counts]
    return np.concatenate([*map(np.log1p, counts), *sums, own], 1).astype(np.float32)


def together(parts: list[Known]) -> Known:
    return Known(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("number_R", "x_RX", "probability_RC"))
    )


def taught(known: Known, seed: int) -> tuple[nn.Module, Array, Array]:
    """A network of two hidden layers, by cross-entropy with the oracle's probability."""
    torch.manual_seed(seed)
    mean, scale = known.x_RX.mean(0), known.x_RX.std(0) + 1e-3
    x_RX, y_RC = torch.from_numpy((known.x_RX - mean) / scale), torch.from_numpy(known.probability_RC)
    net = nn.Sequential(
        nn.Linear(x_RX.shape[1], WIDTH), nn.GELU(), nn.Dropout(0.2), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Dropout(0.2)
    ).append(nn.Linear(WIDTH, y_RC.shape[1]))
    optimiser = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=0.01)
    steps = EPOCHS * -(-len(x_RX) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LR, steps)
    for _ in track(range(EPOCHS), f"{len(x_RX):,} rows"):
        for rows in torch.randperm(len(x_RX)).split(BATCH):
            optimiser.zero_grad()
            F.binary_cross_entropy_with_logits(net(x_RX[rows]), y_RC[rows]).backward()
            optimiser.step()
            schedule.step()
    return net.eval(), mean, scale


def scores(net: nn.Module, mean: Array, scale: Array, x_RX: Array) -> Array:
    with torch.no_grad():
        said_RC: Array = net(torch.from_numpy((x_RX - mean) / scale)).numpy()
    return said_RC


def measure(run: Path, users: list[int]) -> dict[str, Any]:
    project = prepared("wallet", None, run, Console(quiet=True), {}, from_scratch=True)
    project.ingest()
    place = world("en")
    own = of_requests(place, project.requests)
    split, labels = project.requests["split"].to_numpy().astype(str), project.labels
    rows = {part: np.flatnonzero(split == part) for part in ("train", "validation", "test")}

    def judged(said: Mapping[str, Array]) -> dict[str, dict[str, float]]:
        """By [R] scores of the test rows."""
        told = {name: (labels[name][rows["test"]], score_R) for name, score_R in said.items()}
        found = {name: {"auc": float(auc(*of)), "ks": float(ks(*of))} for name, of in told.items()}
        return found | {"average": {key: float(np.mean([of[key] for of in found.values()])) for key in ("auc", "ks")}}

    def by_labels(name: str) -> Array:
        trees = Boosted().fit(*(of[rows[part]] for part in ("train", "validation") for of in (own.x_RX, labels[name])))
        return trees.score(own.x_RX[rows["test"]])

    names = list(place.book["scenarios"])
    found = {"trees, own labels": judged({name: by_labels(name) for name in names})}
    others = list(track(simulated(place, max(users), 1, AS_OF), "people of another wallet", max(users) // CHUNK * 3))
    for count in users:
        part = together(others[: count // CHUNK * 3])
        score_RC = np.mean([scores(*taught(part, seed), own.x_RX[rows["test"]]) for seed in SEEDS], 0)
        found[f"{count:,} users"] = judged(dict(zip(names, score_RC.T, strict=True)))
    found["oracle"] = judged(dict(zip(names, own.probability_RC[rows["test"]].T, strict=True)))
    return {"test rows": len(rows["test"]), "training rows": len(rows["train"]), "rows": found}


def of_requests(place: World, requests: pl.DataFrame) -> Known:
    """What is known of each request of the bench, row by row."""
    number_N = requests["user_id"].str.slice(1).cast(pl.Int64).to_numpy()
    day_N = (requests["as_of"].dt.date() - START).dt.total_days().to_numpy()
    parts = []
    for day in AS_OF:
        part = together(list(simulated(place, int(number_N.max()) + 1, 0, (day,))))
        own = np.searchsorted(part.number_R, number_N[day_N == day])
        parts.append(Known(np.flatnonzero(day_N == day), part.x_RX[own], part.probability_RC[own]))
    all_rows = together(parts)
    back = np.argsort(all_rows.number_R)
    return Known(number_N, all_rows.x_RX[back], all_rows.probability_RC[back])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=100_000, help="people of another wallet, at most")
    parser.add_argument("--run", type=Path, default=Path("runs/wallet"), help="run folder of `qanchor bench`")
    arguments = parser.parse_args()
    most = arguments.users // CHUNK * CHUNK
    result = measure(arguments.run, [n // CHUNK * CHUNK for n in (most // 16, most // 4, most)])
    table = Table("scenario", *result["rows"], title=f"AUC / KS on the bench's {result['test rows']:,} test rows")
    for name in result["rows"]["oracle"]:
        table.add_row(name, *(f"{of[name]['auc']:.3f} / {of[name]['ks']:.3f}" for of in result["rows"].values()))
    Console().print(table)
    print(json.dumps(result))
