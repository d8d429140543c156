"""The contest: the right columns on the right rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qanchor.config import Config, parse
from qanchor.errors import DataError
from qanchor.evaluation.judge import judge, swap

NAMES = ["pay", "fly", "read", "play"]


def config(names: list[str] = NAMES) -> Config:
    source = {"path": "a.csv", "user": "u", "time": "t", "modality": "bill", "text": "{x}"}
    windows = {"train": ["2024-01-01"], "validation": ["2024-01-01"], "test": ["2024-03-01"]}
    scenarios = {name: {"query": f"Will they {name}?", "label": {"at_least": 1}} for name in names}
    return parse({"name": "toy", "sources": [source], "windows": windows, "scenarios": scenarios}, Path())


def world(n: int = 1200, seed: int = 0) -> dict[str, Any]:
    """Each scenario's own embedding knows its label; counts know all of them a little."""
    random = np.random.default_rng(seed)
    odds = {name: random.normal(size=n) * 2 for name in NAMES}
    labels = {name: (random.random(n) < 1 / (1 + np.exp(-z))).astype(np.float32) for name, z in odds.items()}
    noise = random.normal(size=(n, 8))
    own = {name: np.column_stack([z, noise]).astype(np.float32) for name, z in odds.items()}
    return {
        "embeddings": {
            "base": {k: v + [[1] + [0] * 8] * random.normal(size=(n, 1)) * 2 for k, v in own.items()},
            "tuned": own,
        },
        "counts": (np.stack(list(odds.values()), axis=1) + 4 * random.normal(size=(n, 4))).astype(np.float32),
        "labels": labels,
        "oracle": odds,
        "split": random.choice(["train", "validation", "test"], n, p=[0.6, 0.1, 0.3]),
    }


def test_columns_are_ordered_and_tell_what_they_should() -> None:
    told: list[int] = []
    results = judge(config(), **world(), progress=told.append)
    assert results.columns == ["counts", "base", "swapped", "tuned", "oracle"]
    assert list(results.scenarios) == NAMES
    assert sum(told) == 20
    for row in results.scenarios.values():
        assert row["swapped"].auc == pytest.approx(0.5, abs=0.12)
        assert row["tuned"].auc > row["base"].auc > row["swapped"].auc
        assert row["tuned"].auc == pytest.approx(row["oracle"].auc, abs=0.02)
    average = results.average
    assert average["tuned"]["ks"] == pytest.approx(np.mean([row["tuned"].ks for row in results.scenarios.values()]))
    assert results.sizes["test rows"] == results.scenarios["pay"]["base"].n


def test_zero_shot_is_the_score_itself() -> None:
    given = world()
    told = {name: -score if name == "pay" else score for name, score in given["oracle"].items()}
    results = judge(config(), **given, zero_shot=told)
    assert results.columns == ["counts", "zero-shot", "base", "swapped", "tuned", "oracle"]
    for name, row in results.scenarios.items():
        best = row["oracle"].auc
        assert row["zero-shot"].auc == pytest.approx(1 - best if name == "pay" else best)
        assert row["zero-shot"].auc_spread == 0
    with pytest.raises(DataError, match="zero-shot lack fly"):
        judge(config(), **given, zero_shot={name: told[name] for name in NAMES if name != "fly"})


def test_swapped_reads_the_partner() -> None:
    given = world()
    given["embeddings"] = {"base": given["embeddings"]["tuned"]}
    given["labels"] |= {"pay": given["labels"][swap(NAMES)["pay"]]}
    results = judge(config(), **given)
    assert results.scenarios["pay"]["swapped"].auc > 0.75
    assert results.scenarios["pay"]["base"].auc < 0.65


@pytest.mark.parametrize("count", range(2, 12))
def test_nobody_is_swapped_with_itself(count: int) -> None:
    names = [f"s{k}" for k in range(count)]
    partners = swap(names)
    assert sorted(partners.values()) == sorted(names)
    assert all(partners[name] != name for name in names)


def test_absent_columns_are_left_out() -> None:
    given = world() | {"oracle": None}
    del given["embeddings"]["tuned"]
    assert judge(config(), **given).columns == ["counts", "base", "swapped"]
    assert judge(config(["pay"]), **given).columns == ["counts", "base"]


def test_a_scenario_without_positives_is_listed_and_left_out_of_the_average() -> None:
    given = world()
    given["labels"]["fly"] = np.zeros_like(given["labels"]["fly"])
    results = judge(config(), **given)
    assert all(score.reason for score in results.scenarios["fly"].values())
    scored = [results.scenarios[name]["base"].auc for name in NAMES if name != "fly"]
    assert results.average["base"]["auc"] == pytest.approx(np.mean(scored))


def test_missing_scenarios_are_named() -> None:
    given = world()
    del given["embeddings"]["tuned"]["read"]
    with pytest.raises(DataError, match="tuned lack read"):
        judge(config(), **given)


def test_an_oracle_with_holes_is_refused() -> None:
    given = world()
    given["oracle"]["pay"][given["split"] == "test"] = np.nan
    with pytest.raises(DataError, match="oracle has no value"):
        judge(config(), **given)
