"""The k nearest are those of a slow search in double precision, however the rows are cut; Lance finds most of them."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import tiny_towers
from hypothesis import given, settings
from hypothesis import strategies as st

from qanchor.errors import DataError, ModelError
from qanchor.inference import lance
from qanchor.inference.engine import QAnchor
from qanchor.inference.search import Near, direction, nearest, without
from qanchor.inference.snapshot import Made, Snapshot
from qanchor.model.readout import COMMON, LINES, MIXED, Readout
from qanchor.useru.chinese import CHINESE
from qanchor.useru.english import ENGLISH
from qanchor.useru.statements import Framing

FRAMING = Framing(ENGLISH, "month")
MADE = Made("2025-03-01", "trip", "Will they travel?", "model", "prompt", "events", "1")


def crowd(users: int, width: int = 16, seed: int = 0) -> tuple[pa.Array, np.ndarray]:
    """Ids in no order, rows of unit length; a third of the users are copies of others."""
    random = np.random.default_rng(seed)
    row_NO = random.normal(size=(users, width)).astype(np.float32)
    row_NO[users // 3 : 2 * (users // 3)] = row_NO[: users // 3]
    names = [f"u{n}" for n in random.permutation(users)]
    return pa.array(names), row_NO / np.linalg.norm(row_NO, axis=1, keepdims=True)


def slowly(user_N: pa.Array, row_NO: np.ndarray, vector_O: np.ndarray, k: int) -> list[Near]:
    scores = [float((row_O.astype(np.float64) * vector_O.astype(np.float64)).sum()) for row_O in row_NO]
    return sorted(map(Near, user_N.to_pylist(), scores), key=lambda near: (-near.score, near.user_id))[:k]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 100), st.integers(1, 40), st.integers(0, 9))
def test_nearest_is_the_slow_search_whatever_the_blocks(users, k, rows, seed):
    user_N, row_NO = crowd(users, seed=seed)
    vector_O = np.random.default_rng(seed + 100).normal(size=16).astype(np.float32)
    blocks = ((user_N[at : at + rows], row_NO[at : at + rows]) for at in range(0, users, rows))
    assert nearest(blocks, vector_O, k) == slowly(user_N, row_NO, vector_O, k)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 60), st.integers(1, 40), st.integers(1, 2), st.integers(0, 9))
def test_what_a_readout_has_written_moves_nobody(users, rows, classes, seed):
    random = np.random.default_rng(seed)
    user_N, mixed_NO = crowd(users, 128, seed)
    along_RO = replace(Readout.none(), line_RV=torch.zeros(LINES + classes, 0)).along(128).numpy()
    mixed_NO = without(along_RO, mixed_NO)
    said_NR = np.column_stack([np.full(users, COMMON), random.normal(0, 2, (users, classes))])
    row_NO = MIXED * mixed_NO + said_NR @ along_RO
    row_NO = (row_NO / np.linalg.norm(row_NO, axis=1, keepdims=True)).astype(np.float32)
    vector_O = random.normal(size=128).astype(np.float32)
    blocks = ((user_N[at : at + rows], row_NO[at : at + rows]) for at in range(0, users, rows))
    found = nearest(blocks, vector_O, 5, along_RO)
    assert found == nearest([(user_N, row_NO)], vector_O, 5, along_RO)
    expected = slowly(user_N, mixed_NO, vector_O, users)
    score = {near.user_id: near.score for near in expected}
    np.testing.assert_allclose([near.score for near in found], [near.score for near in expected[:5]], atol=2e-3)
    np.testing.assert_allclose([near.score for near in found], [score[near.user_id] for near in found], atol=2e-3)


def test_what_single_precision_cannot_tell_apart_is_told_apart():
    """Scores that differ by a hundredth of a rounding of single precision."""
    vector_O = np.ones(128, np.float32)
    row_NO = np.full((50, 128), 128**-0.5, np.float32)
    row_NO[np.arange(50), np.arange(50)] = np.nextafter(row_NO[0, 0], np.float32(1))  # all alike, in other columns
    row_NO[31, 100] = np.nextafter(row_NO[0, 0], np.float32(1))
    user_N = pa.array([f"u{n:02}" for n in range(50)])
    found = nearest([(user_N, row_NO)], vector_O, 3)
    assert [near.user_id for near in found] == ["u31", "u00", "u01"]


def test_nobody_is_found_among_nobody():
    assert nearest([], np.ones(16, np.float32), 5) == []
    assert nearest([(pa.array([], pa.string()), np.zeros((0, 16), np.float32))], np.ones(16, np.float32), 5) == []


def test_a_snapshot_is_read_in_blocks_of_any_size(tmp_path):
    snapshot, users, row_NO = written(tmp_path, 50)
    for rows in (7, 50, 1000):
        parts = list(snapshot.blocks("trip", 0, rows))
        assert len(parts) == -(-50 // rows)
        assert pa.concat_arrays([user_N for user_N, _ in parts]).equals(users)
        np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), row_NO)


def written(folder, users: int, width: int = 16) -> tuple[Snapshot, pa.Array, np.ndarray]:
    snapshot = Snapshot(folder, dt.date(2025, 3, 1))
    user_N, row_NO = crowd(users, width)
    snapshot.write(0, MADE, user_N, row_NO)
    return snapshot, user_N, row_NO


@pytest.mark.parametrize("indexed", [True, False])
def test_lance_finds_most_of_the_nearest(tmp_path, monkeypatch, indexed):
    monkeypatch.setattr(lance, "INDEXED", 500 if indexed else 10**9)
    random = np.random.default_rng(1)
    centre_CO = random.normal(size=(12, 16))
    row_NO = centre_CO[random.integers(12, size=4_000)] + 0.4 * random.normal(size=(4_000, 16))
    row_NO = (row_NO / np.linalg.norm(row_NO, axis=1, keepdims=True)).astype(np.float32)
    snapshot, user_N = Snapshot(tmp_path, dt.date(2025, 3, 1)), pa.array([f"u{n}" for n in range(4_000)])
    snapshot.write(0, MADE, user_N, row_NO)
    vector_O = (centre_CO[3] - centre_CO[7]).astype(np.float32)
    with pytest.raises(DataError, match="--sink lance"):
        lance.search(snapshot, "trip", 1, vector_O, 100)
    lance.write(snapshot, "trip", 1)
    exact = slowly(user_N, row_NO, vector_O, 100)
    found = lance.search(snapshot, "trip", 1, vector_O, 100)
    assert len(set(found) & set(exact)) >= (90 if indexed else 100)  # scores, too, are the exact ones
    assert found == sorted(found, key=lambda near: (-near.score, near.user_id))


def test_a_data_set_older_than_its_files_is_refused(tmp_path):
    snapshot, user_N, row_NO = written(tmp_path, 50)
    lance.write(snapshot, "trip", 1)
    snapshot.write(0, replace(MADE, model="another"), user_N, row_NO)
    with pytest.raises(DataError, match="older than the files beside it"):
        lance.search(snapshot, "trip", 1, row_NO[0], 5)


@pytest.fixture(scope="module")
def model() -> QAnchor:
    return QAnchor(tiny_towers(layers=1))


def test_a_direction_is_the_contrast_of_framed_answers(model):
    yes, no = FRAMING.happens("buys coffee."), FRAMING.does_not("buys coffee.")
    assert yes == ["Buys coffee."]
    assert no == [
        "No buys coffee at all in the next month, nor anything else.",
        "Never, nothing to do with buys coffee in the next month, but other things a few times.",
    ]
    answer_RO = model.answers([*yes, *no]).astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(answer_RO, axis=1), 1, atol=1e-5)
    denial_O = answer_RO[1:].mean(0)
    expected_O = (answer_RO[0] - denial_O / np.linalg.norm(denial_O)) / 2
    coffee_O = direction(model, FRAMING, "buys coffee")
    np.testing.assert_allclose(coffee_O, expected_O, atol=1e-2)  # bf16: other batches round differently
    rent_O = direction(model, FRAMING, "pays rent")
    np.testing.assert_allclose(direction(model, FRAMING, "buys coffee", "pays rent"), coffee_O - rent_O, atol=1e-6)
    np.testing.assert_allclose(direction(model, FRAMING, None, "pays rent"), -rent_O, atol=1e-6)
    for said in (("", None), (None, None), ("buys coffee", " ")):
        with pytest.raises(ModelError, match="expected a phrase"):
            direction(model, FRAMING, *said)


def test_chinese_is_framed_in_chinese():
    framing = Framing(CHINESE, "一个月")
    assert framing.happens("点外卖。") == ["点外卖。"]
    assert framing.does_not("点外卖")[0] == "不会，未来一个月没有与点外卖有关的行为，也没有其他活动。"
