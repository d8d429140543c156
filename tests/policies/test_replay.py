"""The replayed world is that of the logs, and a call changes it as replay.py says."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from qanchor.datasets.wallet import simulate
from qanchor.errors import DataError
from qanchor.policies.replay import BOOST, NEVER, REACH, Replay, replay


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wallet")
    simulate(folder, 2_100, days=44, as_of_days=(14,), predict_days=30)  # more than one chunk
    return folder


@pytest.fixture(scope="module")
def truth(raw):
    table = pl.read_parquet(raw / "truth" / "oracle.parquet").filter(scenario="takeout")
    return table.filter(pl.col("as_of") == table["as_of"].max())


@pytest.fixture(scope="module")
def world(raw, truth):
    return replay(raw, truth, "takeout", truth["label"].to_numpy(), 30)


def test_without_a_call_the_logs_come_true(world, truth):
    np.testing.assert_array_equal(world.outcome(np.full(len(world), NEVER)), truth["label"].to_numpy() > 0)


def test_hidden_rates_are_those_that_made_the_labels(world, truth):
    chance = -np.expm1(-world.rate_NT.sum(1))
    label = truth["label"].to_numpy()
    error = np.sqrt((chance * (1 - chance)).sum()) / len(chance)
    assert abs(chance.mean() - label.mean()) < 3 * error
    # knowing the window's own drift too, they tell more than the oracle
    assert np.corrcoef(chance, label)[0, 1] > np.corrcoef(truth["probability"], label)[0, 1]


def test_hidden_rates_have_the_calendar_of_the_logs(raw, world, truth):
    """What the logs hold of takeaways, day by day, rises and falls with what was expected of all users."""
    found = np.zeros(30)
    for source, time, text in (
        ("bill", "pay_time", "merchant"),
        ("mini", "ts", "program"),
        ("spm", "visit_time", "path"),
    ):
        rows = pl.read_parquet(raw / source / "*.parquet").filter(
            pl.col(text).str.contains("(?i)takeaway|food delivery")
        )
        stamp = rows[time] if source == "mini" else rows[time].dt.epoch("s")
        day = (stamp.to_numpy() - int(truth["as_of"].dt.epoch("s")[0])) // 86_400
        found += np.bincount(day[(day >= 0) & (day < 30)], minlength=30)
    assert found.sum() > 1_000
    assert np.corrcoef(found, world.rate_NT.sum(0))[0, 1] > 0.5


def test_a_call_helps_the_doubtful_most_and_never_hurts(world):
    start = np.zeros(len(world), np.int64)
    called, late = world.outcome(start), world.outcome(start + 25)
    assert (called >= world.label_N).all()
    assert (called >= late).all()
    assert late.sum() > world.label_N.sum()
    mean = world.rate_NT.sum(1)
    uplift = called.astype(float) - world.label_N
    expected = np.exp(-mean) * -np.expm1(-BOOST * mean)
    assert uplift.mean() == pytest.approx(expected.mean(), abs=3 * uplift.std() / np.sqrt(len(uplift)))
    doubtful = (mean > 0.4) & (mean < 1.2)
    assert uplift[doubtful].mean() > 1.5 * uplift[~doubtful].mean()


def test_answers_follow_the_users_own_hours_with_the_same_luck_for_all(world):
    rows = np.arange(len(world))
    best = world.awake_N24.argmax(1)
    night = np.full(len(world), 4)
    answered = world.answered(rows, 3, best)
    assert answered.mean() == pytest.approx(REACH, abs=0.03)
    assert world.answered(rows, 3, night).mean() < 0.4
    assert (answered >= world.answered(rows, 3, night)).all()
    np.testing.assert_array_equal(world.answered(rows[::-1], 3, best[::-1])[::-1], answered)


def test_fewer_users_have_the_same_fate(raw, truth, world):
    some = truth[[2050, 5, 17]]
    few = replay(raw, some, "takeout", some["label"].to_numpy(), 30)
    for whole, part in ((world.rate_NT, few.rate_NT), (world.answer_NT, few.answer_NT), (world.effect_N, few.effect_N)):
        np.testing.assert_array_equal(whole[[2050, 5, 17]], part)


def test_another_world_is_refused(raw, truth, tmp_path):
    label = truth["label"].to_numpy()
    with pytest.raises(DataError, match="not those of the logs"):
        replay(raw, truth, "takeout", label, 30, seed=1)
    with pytest.raises(DataError, match="only the simulated wallet"):
        replay(tmp_path, truth, "takeout", label, 30)
    with pytest.raises(DataError, match="knows no scenario"):
        replay(raw, truth, "tea", label, 30)
    two = pl.concat([truth[:1], truth[1:2].with_columns(pl.col("as_of") - pl.duration(days=1))])
    with pytest.raises(DataError, match="2 as_ofs"):
        replay(raw, two, "takeout", label[:2], 30)


def test_outcomes_of_a_world_in_small():
    world = Replay(
        label_N=np.array([True, False, False]),
        rate_NT=np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]),
        awake_N24=np.ones((3, 24)),
        answer_NT=np.zeros((3, 2)),
        effect_N=np.array([0.99, 0.7, 0.0]),
    )
    # 1 - exp(-2) = .86 is above the luck of .7, 1 - exp(-1) = .63 is not
    assert world.outcome(np.array([NEVER, 0, 0])).tolist() == [True, True, False]
    assert world.outcome(np.array([0, 1, 1])).tolist() == [True, False, False]
