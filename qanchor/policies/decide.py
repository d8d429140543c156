"""Decisions from a run's embeddings: today's call list, and the users to score as delinquent.

Both are about the run's test users at its last as_of: nothing was fitted on them.

Shapes: N test users, M modalities.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from qanchor.errors import DataError
from qanchor.events.profiles import DAY
from qanchor.inference.attention import modality_attention
from qanchor.inference.engine import QAnchor
from qanchor.pipeline import Project
from qanchor.policies.arms import LEARNED, last_test_users, probabilities
from qanchor.policies.delinquency import Costs, cut_off, lift_table, reasons
from qanchor.policies.engagement import Limits, active_hours, call_hour, call_list, gain
from qanchor.probe.metrics import auc, ks

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
CHOSEN = "tuned"
"""The arm that decides; the others stand beside it in the tables."""
PLAIN = 300
"""Users whose mean attention is the usual one."""


def engage(
    project: Project,
    scenario: str,
    capacity: int,
    limits: Limits,
    contacts: Path | None = None,
    local_offset: float = 0,
) -> pl.DataFrame:
    """Today's calls, best first: rank, user_id, hour, probability, gain; the as_of is today.

    Args:
        contacts: Parquet of the calls so far: user_id, time.
        local_offset: hours that local clocks are ahead of the logs'.

    Raises:
        DataError: `contacts` is not such a file; as `arms.probabilities`, like ConfigError and ModelError.
    """
    rows, keys = last_test_users(project)
    probability = probabilities(project, scenario)[CHOSEN][rows]
    contacted = np.zeros((len(rows), limits.within_days), bool)
    if contacts is not None:
        contacted = _contacted(contacts, keys, limits)
    worth = gain(probability)
    called = call_list(worth, contacted, capacity, limits)
    hour = call_hour(active_hours(project.past.take(rows[called]), local_offset), limits)
    return pl.DataFrame(
        {
            "rank": np.arange(1, len(called) + 1),
            "user_id": keys["user_id"].to_numpy()[called].astype(str),
            "hour": hour,
            "probability": probability[called],
            "gain": worth[called],
        }
    )


def risk(project: Project, scenario: str, costs: Costs) -> tuple[dict[str, Any], pl.DataFrame]:
    """What each arm's cut-off costs on test users, the lift of the chosen one, and its flagged users with a reason.

    Raises:
        DataError, ConfigError, ModelError: as `arms.probabilities`.
    """
    rows, keys = last_test_users(project)
    y, told = project.labels[scenario], probabilities(project, scenario)
    asked = np.isfinite(y[rows])
    rows, keys = rows[asked], keys.filter(pl.Series(asked))
    checked = project.rows("validation")
    checked = checked[np.isfinite(y[checked])]
    arms: dict[str, dict[str, Any]] = {}
    for arm in LEARNED:
        limit = cut_off(y[checked], told[arm][checked], costs)
        flagged = told[arm][rows] >= limit
        caught = flagged & (y[rows] > 0)
        arms[arm] = {
            "auc": auc(y[rows], told[arm][rows]),
            "ks": ks(y[rows], told[arm][rows]),
            "cut_off": limit,
            "flagged": int(flagged.sum()),
            "caught": float(caught.sum() / (y[rows] > 0).sum()),
            "right": float(caught.sum() / flagged.sum()) if flagged.any() else None,
            "cost": costs.per_user(y[rows], flagged),
        }
    nobody = costs.per_user(y[rows], np.zeros(len(rows), bool))
    result = {
        "scenario": scenario,
        "users": len(rows),
        "rate": float(y[rows].mean()),
        "costs": asdict(costs),
        "cost_of_flagging_nobody": nobody,
        "arms": arms,
        "lift": [asdict(tenth) for tenth in lift_table(y[rows], told[CHOSEN][rows])],
    }
    chosen = np.flatnonzero(told[CHOSEN][rows] >= arms[CHOSEN]["cut_off"])
    chosen = chosen[np.argsort(-told[CHOSEN][rows[chosen]], kind="stable")]
    return result, _flagged(project, scenario, keys[chosen], rows[chosen], told[CHOSEN][rows[chosen]], checked)


def _contacted(path: Path, keys: pl.DataFrame, limits: Limits) -> npt.NDArray[np.bool_]:
    """[N, within_days] which of the days before the as_of each user was called on, the newest last."""
    try:
        calls = pl.read_parquet(path, columns=["user_id", "time"])
    except (OSError, pl.exceptions.PolarsError) as error:
        line = str(error).splitlines()[0]
        raise DataError(
            f"the contacts file {path} cannot be read ({line}): expected Parquet of user_id, time"
        ) from None
    joined = keys.with_row_index("row").join(calls, on="user_id")
    ago = (joined["as_of"] - joined["time"].cast(pl.Datetime("us"))).dt.total_seconds().to_numpy()
    day = -(-ago // DAY)
    known = (day >= 1) & (day <= limits.within_days)
    contacted = np.zeros((len(keys), limits.within_days), bool)
    contacted[joined["row"].to_numpy()[known], limits.within_days - day[known]] = True
    return contacted


def _flagged(
    project: Project, scenario: str, keys: pl.DataFrame, rows: Ints, probability: Floats, checked: Ints
) -> pl.DataFrame:
    """user_id, probability, reason (a modality), its share of the attention, and its usual share."""
    model = QAnchor.from_pretrained(project.out / "model", project.out / "vectors")
    share = modality_attention(model, project.past.take(rows), [scenario])[:, 0]
    some = np.sort(np.random.default_rng(0).permutation(checked)[:PLAIN])
    usual = modality_attention(model, project.past.take(some), [scenario])[:, 0].mean(0)
    kinds = list(project.past.modalities)
    why = reasons(share, usual, kinds)
    place = np.array([kinds.index(reason) for reason in why], np.int64)
    return pl.DataFrame(
        {
            "user_id": keys["user_id"].to_numpy().astype(str),
            "probability": probability,
            "reason": why,
            "attention": share[np.arange(len(rows)), place].astype(np.float64),
            "usual_attention": usual[place].astype(np.float64),
        },
        schema_overrides={"user_id": pl.String, "reason": pl.String},
    )
