"""The probe finds what is there, does not find what is not, and keeps the splits apart."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from qanchor.errors import DataError
from qanchor.probe.linear import Probe, probe
from qanchor.probe.metrics import auc

N = 3000
SPLIT = np.array(["train"] * 1800 + ["validation"] * 300 + ["test"] * 900)
Array = npt.NDArray[np.float32]


def planted(seed: int = 0, strength: float = 2.0, d: int = 16) -> tuple[Array, Array, Array]:
    """Features, labels, and the true log odds."""
    random = np.random.default_rng(seed)
    X = random.normal(size=(N, d)).astype(np.float32)
    odds = strength * X @ random.normal(size=d).astype(np.float32) / math.sqrt(d)
    y = (random.random(N) < 1 / (1 + np.exp(-odds))).astype(np.float32)
    return X, y, odds


def test_finds_a_planted_linear_signal() -> None:
    X, y, odds = planted()
    ceiling = auc(y[SPLIT == "test"], odds[SPLIT == "test"])
    score = probe(X * 40 + 7, y, SPLIT)
    assert ceiling > 0.8
    assert score.auc == pytest.approx(ceiling, abs=0.01)
    assert 0 < score.auc_spread < 0.01
    assert 0 < score.ks_spread < 0.05
    assert (score.n, score.positives) == (900, int(y[SPLIT == "test"].sum()))


def test_finds_nothing_in_noise() -> None:
    X, _, _ = planted()
    noise = np.random.default_rng(9).integers(0, 2, N).astype(np.float32)
    assert probe(X, noise, SPLIT).auc == pytest.approx(0.5, abs=0.05)


def test_units_and_constant_features_do_not_matter() -> None:
    X, y, _ = planted()
    scaled = np.column_stack([X * np.logspace(-3, 3, 16, dtype=np.float32), np.full(N, 1e4, np.float32), np.zeros(N)])
    assert probe(scaled, y, SPLIT).auc == pytest.approx(probe(X, y, SPLIT).auc, abs=1e-3)


def test_test_rows_change_the_score_and_nothing_else() -> None:
    X, y, _ = planted()
    poisoned = np.where(SPLIT == "test", 1 - y, y)
    honest, turned = probe(X, y, SPLIT), probe(X, poisoned, SPLIT)
    assert turned.auc == pytest.approx(1 - honest.auc, abs=1e-9)
    assert turned.auc_spread == pytest.approx(honest.auc_spread, abs=1e-9)


def test_validation_rows_choose_the_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    X = random.normal(size=(N, 400)).astype(np.float32)
    y = (X[:, :10].sum(axis=1) + random.logistic(size=N) > 0).astype(np.float32)
    split = np.array(["train"] * 500 + ["validation"] * 1500 + ["test"] * 1000)
    repeated_X, repeated_y = X.copy(), y.copy()  # validation rows that repeat training rows speak for overfitting
    repeated_X[500:2000], repeated_y[500:2000] = np.tile(X[:500], (3, 1)), np.tile(y[:500], 3)

    def score(*penalties: float) -> tuple[float, float]:
        monkeypatch.setattr("qanchor.probe.linear.PENALTIES", np.array(penalties))
        return probe(X, y, split).auc, probe(repeated_X, repeated_y, split).auc

    weak, strong = score(1e-4)[0], score(0.03)[0]
    assert abs(strong - weak) > 0.01
    assert score(1e-4, 0.03) == (pytest.approx(strong, abs=4e-3), pytest.approx(weak, abs=4e-3))


def test_rows_without_a_label_are_left_out() -> None:
    X, y, _ = planted()
    hidden = np.random.default_rng(0).random(N) < 0.4
    y_hidden = np.where(hidden, np.nan, y).astype(np.float32)
    found = probe(X, y_hidden, SPLIT)
    assert found.n == int((~hidden & (SPLIT == "test")).sum())
    assert found.auc == pytest.approx(probe(X[~hidden], y[~hidden], SPLIT[~hidden]).auc, abs=0.003)


def test_users_are_resampled_whole() -> None:
    X, y, _ = planted()
    few = np.arange(N) % 20  # twenty users with many rows each: resampling them moves the probe less evenly
    as_rows, as_users = probe(X, y, SPLIT), probe(X, y, SPLIT, few)
    assert as_rows.auc == as_users.auc
    assert as_rows.auc_spread != as_users.auc_spread
    assert as_users == probe(X, y, SPLIT, np.array([f"u{k}" for k in few], object))


def test_seeds_are_reproducible_and_one_has_no_spread() -> None:
    X, y, _ = planted()
    prepared = Probe(X, SPLIT)
    assert prepared.score(y) == prepared.score(y)
    assert prepared.score(y, seeds=(5,)).auc_spread == 0
    assert replace(prepared.score(y, seeds=(3, 4, 5)), auc_spread=0, ks_spread=0) == replace(
        prepared.score(y), auc_spread=0, ks_spread=0
    )


@pytest.mark.parametrize("part", ["train", "validation", "test"])
@pytest.mark.parametrize("value", [0.0, 1.0, math.nan])
def test_one_class_gives_a_reason_and_not_a_score(part: str, value: float) -> None:
    X, y, _ = planted()
    y[part == SPLIT] = value
    score = probe(X, y, SPLIT)
    assert math.isnan(score.auc)
    assert math.isnan(score.ks)
    assert part in score.reason
    assert "both classes" in score.reason


def test_a_single_positive_user_is_never_lost_in_a_resample() -> None:
    X, y, _ = planted()
    y[(SPLIT == "train")] = 0
    y[3] = 1
    assert math.isfinite(probe(X, y, SPLIT, seeds=range(8)).auc_spread)


def test_refuses_what_does_not_fit() -> None:
    X, y, _ = planted()
    with pytest.raises(DataError, match="expected"):
        probe(X[:-1], y, SPLIT)
    with pytest.raises(DataError, match="unknown splits"):
        probe(X, y, np.where(SPLIT == "test", "holdout", SPLIT))
    X[7, 2] = np.nan
    with pytest.raises(DataError, match="row 7"):
        probe(X, y, SPLIT)
