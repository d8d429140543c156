"""The policies that meet: what each knows of the users when it decides.

    rule      seen within a week, five events in the last month, the most active first: what a team has without a model
    lightgbm  gradient-boosted trees on hand-made counts (Table 11's "Business SOTA")
    base      the probe on the embeddings of the scenario's question
    tuned     the same with the scenario's soft prompt

All are fitted on training users; trees, penalties and calibration are chosen on validation users; test users are only
decided about.

Shapes: N requests (a user at an as_of), F features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from sklearn.linear_model import LogisticRegression

from qanchor import embeddings
from qanchor.baselines.boosted import Boosted
from qanchor.baselines.counts import Counts
from qanchor.errors import DataError
from qanchor.events.labels import label
from qanchor.events.profiles import DAY, Profiles
from qanchor.pipeline import Project
from qanchor.probe.linear import Probe, labelled

Floats = npt.NDArray[np.float64]
Split = npt.NDArray[np.str_]
RULE = "rule"
LEARNED = ("lightgbm", "base", "tuned")
SEEN_DAYS, RECENT_DAYS, FREQUENT = 7, 30, 5


def business_rule(past: Profiles) -> Floats:
    """[N] events in the last 30 days of who has five and was seen in the last 7; NaN for all others."""
    age = (past.as_of[past.owner] - past.time) / DAY
    recent = np.bincount(past.owner[age <= RECENT_DAYS], minlength=len(past)).astype(np.float64)
    newest = np.full(len(past), np.inf)
    np.minimum.at(newest, past.owner, age)
    return np.where((recent >= FREQUENT) & (newest <= SEEN_DAYS), recent, np.nan)


def probabilities(project: Project, scenario: str) -> dict[str, Floats]:
    """arm -> [N] chance of the scenario's label, calibrated on validation users; NaN in training rows.

    Raises:
        ConfigError: no such scenario.
        DataError: the run was not evaluated, or a split has labels of one class only.
        ModelError: LightGBM is not installed.
    """
    y = label(project.config, scenario, project.past, project.future)
    split = project.requests["split"].to_numpy().astype(str)
    rows, reason = labelled(split, y)
    if reason:
        raise DataError(f"{scenario}: {reason}")
    counts = Counts().fit(project.past.take(project.rows("train"))).embed(project.past)
    train, validation = rows["train"], rows["validation"]
    trees = Boosted().fit(counts[train], y[train], counts[validation], y[validation])
    chance = np.clip(trees.score(counts).astype(np.float64), 1e-6, 1 - 1e-6)
    scores = {"lightgbm": np.log(chance / (1 - chance))}
    for kind in ("base", "tuned"):
        path = project.storage / "embeddings" / f"{kind}.parquet"
        if not path.exists():
            raise DataError(f"no {path}: run `qanchor evaluate` first, policies decide by its embeddings")
        scores[kind] = _probed(embeddings.read(path, scenario, project.covers), split, y)
    return {arm: _calibrated(score, split, y, validation) for arm, score in scores.items()}


def last_test_users(project: Project) -> tuple[npt.NDArray[np.int64], pl.DataFrame]:
    """Rows and keys of the requests about test users at the last as_of."""
    requests = project.requests
    asked = (requests["split"] == "test") & (requests["as_of"] == requests["as_of"].max())
    rows = np.flatnonzero(asked.to_numpy())
    return rows, requests[rows]


def outcome_before(project: Project, scenario: str, keys: pl.DataFrame) -> Floats:
    """[N] the scenario's label one prediction window earlier: known before any decision (0 where it was not asked)."""
    days = project.config.windows.predict_days
    earlier = keys.with_columns(pl.col("as_of") - pl.duration(days=days))
    past, future = project.store.profiles(earlier), project.store.futures(earlier, days)
    return np.nan_to_num(label(project.config, scenario, past, future)).astype(np.float64)


def _probed(features: npt.NDArray[np.float32], split: Split, y: npt.NDArray[Any]) -> Floats:
    """[N] the linear probe's scores of validation and test rows; validation rows stand as test rows once more."""
    again = np.flatnonzero(split == "validation")
    twice = np.concatenate([np.arange(len(split)), again])
    told = Probe(features[twice], np.concatenate([split, np.full(len(again), "test")])).answer(y[twice]).score
    score = told[: len(split)].astype(np.float64)
    score[again] = told[len(split) :]
    return score


def _calibrated(score: Floats, split: Split, y: npt.NDArray[Any], validation: npt.NDArray[np.int64]) -> Floats:
    """[N] scores as probabilities: a logistic curve through the validation rows (Platt)."""
    mean, deviation = score[validation].mean(), score[validation].std() or 1.0
    unit = ((score - mean) / deviation)[:, None]
    curve = LogisticRegression(C=1e3).fit(unit[validation], y[validation])
    known = (split != "train") & np.isfinite(score)
    probability = np.full(len(score), np.nan)
    probability[known] = curve.predict_proba(unit[known])[:, 1]
    return probability
