"""The wallet's world under another decision: what calling a user would have changed.

The simulator's hidden people are drawn again (wallet_people.py), and held to the truth that was written with the logs.
Without a call a user does what the logs say. A call works like this, and every number of it is ours:

1. It is **answered** with probability REACH times how awake the user is at that hour: the user's own hidden rate of
   events in it over that of its best hour.
2. An answered call **adds** events of the scenario's topics, as many a day as the user would have of itself (BOOST = 1
   doubles the hidden rate), from that day to the end of the prediction window. The label is then positive if the logs
   say so or one of the added events comes, which happens with probability 1 - exp(-BOOST * remaining rate).

So a call to a user who comes anyway is wasted, and one to a user to whom it means nothing too: whom to call depends on
the hidden rate, when to call on the hidden hours. The dice are thrown once for each user and day, whatever is decided
(common random numbers): every policy meets the same luck, and what one user would do under each is known.

Shapes: U users of the world, N users asked about, T days of the window, K rhythms.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from qanchor.datasets.wallet_events import DAY, weekly_rates
from qanchor.datasets.wallet_files import EPOCH, user_ids
from qanchor.datasets.wallet_oracle import probabilities
from qanchor.datasets.wallet_people import CHUNK, People, Streams, people, streams
from qanchor.datasets.wallet_world import RHYTHMS, World, calendar, hours, world
from qanchor.errors import DataError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
REACH = 0.8
BOOST = 1.0
NEVER = -1


@dataclass(frozen=True)
class Replay:
    """N users of one as_of, and their luck."""

    label_N: Flags
    """What the logs say: the outcome without a call."""
    rate_NT: Floats
    """Hidden events of the scenario expected on each day of the window."""
    awake_N24: Floats
    """Hidden rate of all events in each hour, over that of the best hour."""
    answer_NT: Floats
    """Luck in [0, 1) of each day's call."""
    effect_N: Floats
    """Luck in [0, 1) of what an answered call does."""

    def __len__(self) -> int:
        return len(self.label_N)

    def answered(self, rows: Ints, day: int, hour: Ints) -> Flags:
        """Which of `rows` answer when called on a day of the window, each at its hour."""
        answers: Flags = self.answer_NT[rows, day] < REACH * self.awake_N24[rows, hour]
        return answers

    def outcome(self, day_N: Ints) -> Flags:
        """[N] the label, had each user answered a call on `day_N` (NEVER for none)."""
        left_NT = np.cumsum(self.rate_NT[:, ::-1], axis=1)[:, ::-1]
        left = np.where(day_N >= 0, left_NT[np.arange(len(self)), np.maximum(day_N, 0)], 0.0)
        converted: Flags = self.label_N | (self.effect_N < -np.expm1(-BOOST * left))
        return converted


def replay(
    raw: Path, keys: pl.DataFrame, scenario: str, label: npt.NDArray[Any], predict_days: int, seed: int = 0
) -> Replay:
    """The people of a simulated wallet at one as_of, ready to be called.

    Args:
        raw: the folder that `qanchor.datasets.wallet.prepare` wrote.
        keys: [N] user_id, as_of; all of one as_of.
        label: [N] of 0 and 1, the scenario's labels.
        seed: of the simulation.

    Raises:
        DataError: no truth beside the logs, another world or seed than theirs, or several as_ofs.
    """
    truth, as_of = _truth(raw, keys, scenario)
    place, users = world("en"), truth["user_id"].n_unique()
    days = _day(truth["as_of"].max()) + predict_days
    parts = []
    for chunk, start in enumerate(range(0, users, CHUNK)):
        stream = streams(seed, chunk)
        crowd = people(place, np.arange(start, min(start + CHUNK, users)), -(-days // 7), stream)
        if not chunk:
            _recognise(truth, place, crowd, as_of, scenario, predict_days)
        parts.append(_hidden(place, crowd, as_of, scenario, predict_days, days, stream))
    row = pl.Series(keys["user_id"]).str.slice(1).cast(pl.Int64).to_numpy()
    rate, awake, answer, effect = (np.concatenate(column)[row] for column in zip(*parts, strict=True))
    return Replay(label > 0, rate, awake, answer, effect)


def _truth(raw: Path, keys: pl.DataFrame, scenario: str) -> tuple[pl.DataFrame, int]:
    """What the simulator wrote about a scenario, and the as_of as a day of the simulation."""
    path = raw / "truth" / "oracle.parquet"
    if not path.exists():
        raise DataError(f"no {path}: only the simulated wallet can be replayed; on real logs see policies/offline.py")
    moments = keys["as_of"].unique()
    if len(moments) != 1:
        raise DataError(f"{len(moments)} as_ofs to replay, expected one")
    truth = pl.read_parquet(path).filter(pl.col("scenario") == scenario)
    if truth.is_empty():
        raise DataError(f"{path} knows no scenario {scenario!r}: expected one of the wallet's own")
    return truth, _day(moments[0])


def _day(moment: Any) -> int:
    return (int(moment.timestamp()) - EPOCH) // DAY


def _recognise(truth: pl.DataFrame, place: World, crowd: People, as_of: int, scenario: str, predict_days: int) -> None:
    """Refuse to go on with people who are not those of the logs."""
    ours = pl.DataFrame(
        {"user_id": user_ids(crowd), "ours": probabilities(place, crowd, as_of, predict_days)[scenario]}
    )
    time = pl.col("as_of").dt.epoch("s") == as_of * DAY + EPOCH
    both = truth.filter(time).join(ours, on="user_id")
    if both.is_empty() or not np.allclose(both["probability"], both["ours"], atol=2e-6):
        raise DataError("the people drawn again are not those of the logs: give the seed that the wallet was made with")


def _hidden(
    place: World, crowd: People, as_of: int, scenario: str, predict_days: int, days: int, stream: Streams
) -> tuple[Floats, Floats, Floats, Floats]:
    """Rates by day, wakefulness by hour, and both kinds of luck of a chunk."""
    topics = np.flatnonzero(place.target(scenario))
    window = np.arange(as_of, as_of + predict_days)
    weekly_UWJ = weekly_rates(place, crowd.latents, topics)
    daily_CKT = calendar(days)[..., window]
    factor_UJT = daily_CKT[crowd.calendar][:, place.rhythm[topics]]
    rate_UT = np.einsum("utj,ujt->ut", weekly_UWJ[:, window // 7], factor_UJT) / 7

    logged = np.flatnonzero(place.source >= 0)
    now_UJ = weekly_rates(place, crowd.latents[:, as_of // 7, None], logged)[:, 0]
    of_rhythm_UK = np.stack([now_UJ[:, place.rhythm[logged] == k].sum(1) for k in range(len(RHYTHMS))], 1)
    clock = (np.arange(24) - crowd.shift[:, None]) % 24
    awake_U24 = np.take_along_axis(of_rhythm_UK @ hours(), clock, axis=1)
    luck = stream(f"call {scenario}")
    return (
        rate_UT,
        awake_U24 / awake_U24.max(1, keepdims=True),
        luck.random((len(crowd), predict_days)),
        luck.random(len(crowd)),
    )
