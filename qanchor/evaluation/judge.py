"""The contest: every scenario told from every kind of features, by the same probe on the same rows.

Columns, in the order of the table:
    counts    hand-made features, the same for all scenarios
    zero-shot base, told from the scenario's statements: no probe, no label
    base      each scenario by the embeddings of its own query
    swapped   each scenario by the embeddings of another scenario's query: what the query is worth is base less swapped
    tuned     base with the scenario's soft prompt and readout
    oracle    the scenario's true probability, known on simulated data only: the ceiling of any method

Shapes: N rows (a user at an `as_of`), F features, O embedding dimensions.
"""

from __future__ import annotations

import datetime as dt
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qanchor.config import Config
from qanchor.errors import DataError
from qanchor.evaluation.results import ORACLE, ZERO_SHOT, Results
from qanchor.probe.linear import SPLITS, Probe, Score, one_class
from qanchor.probe.metrics import auc, ks

Array = npt.NDArray[Any]


def judge(
    config: Config,
    embeddings: Mapping[str, Mapping[str, Array]],
    counts: Array,
    labels: Mapping[str, Array],
    oracle: Mapping[str, Array] | None,
    split: Array,
    users: Array | None = None,
    zero_shot: Mapping[str, Array] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Results:
    """Probe all scenarios on all columns.

    Args:
        config: gives the data's name and the scenarios and their order.
        embeddings: column -> scenario -> [N, O]; `swapped` is made from the column `base`.
        counts: [N, F].
        labels: scenario -> [N] of 0, 1, NaN (not asked).
        oracle: scenario -> [N] true score of a positive; None when nobody knows it.
        split: [N] of "train", "validation", "test".
        users: [N] ids, so that a user's rows are resampled together.
        zero_shot: scenario -> [N] score by its statements; None where there are none.
        progress: told 1 after each scenario and column.

    Raises:
        DataError: arrays of different lengths, a scenario without labels or embeddings, a feature that is not finite,
            an oracle or a zero-shot score that lacks labelled rows.
    """
    names, hand_made = list(config.scenarios), Probe(counts, split, users)
    known = {column: scores for column, scores in ((ZERO_SHOT, zero_shot), (ORACLE, oracle)) if scores}
    for what, given in {"labels": labels, **embeddings, **known}.items():
        if missing := [name for name in names if name not in given]:
            raise DataError(f"{what} lack {', '.join(missing)}: expected all of {', '.join(names)}")

    def ask(column: str, name: str) -> Score:
        label = labels[name]
        if column == "counts":
            return hand_made.score(label)
        if column in known:
            return _known(column, label, known[column][name], split)
        features = embeddings["base"][swap(names)[name]] if column == "swapped" else embeddings[column][name]
        return Probe(features, split, users).score(label)

    columns = ["counts", *([ZERO_SHOT] if zero_shot else []), *embeddings, *([ORACLE] if oracle else [])]
    if "base" in embeddings and len(names) > 1:
        columns.insert(columns.index("base") + 1, "swapped")
    scenarios: dict[str, dict[str, Score]] = {name: {} for name in names}
    for name, column in product(names, columns):
        scenarios[name][column] = ask(column, name)
        if progress:
            progress(1)
    sizes = {f"{part} rows": int((split == part).sum()) for part in SPLITS} | {"counts features": counts.shape[1]}
    return Results(config.name, scenarios, sizes, hardware=hardware(), date=dt.date.today().isoformat())


def swap(names: Sequence[str]) -> dict[str, str]:
    """scenario -> the other one whose embeddings `swapped` gives it: half the list further on.

    Scenarios that ask nearly the same are mostly neighbours in a config (Table 4 lists them by domain); half the list
    away the question is another one. The rule is fixed, so that nobody picks a partner that looks good.
    """
    return {name: names[(place + len(names) // 2) % len(names)] for place, name in enumerate(names)}


def _known(column: str, label: Array, score: Array, split: Array) -> Score:
    """The score of a given number, with nothing to fit."""
    rows = (split == "test") & ~np.isnan(label)
    if np.isnan(score[rows]).any():
        raise DataError(f"{column} has no value for {int(np.isnan(score[rows]).sum())} test rows with a label")
    y, positives = label[rows], int(label[rows].sum())
    reason = "" if 0 < positives < len(y) else one_class("test", positives, len(y))
    return Score(auc(y, score[rows]), ks(y, score[rows]), 0.0, 0.0, positives, len(y), reason)


def hardware() -> str:
    """The processor's name and the cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{named[0] if named else platform.processor() or platform.machine()}, {cores} cores"
