"""Every baseline learns, repeats itself, and looks at each user alone, before `as_of`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from baseline_world import AS_OF, world

from qanchor.baselines.cpc import CPC
from qanchor.baselines.found import FOUND
from qanchor.baselines.msdp import DAYS, MSDP
from qanchor.baselines.one4all import One4all
from qanchor.baselines.sequences import LENGTH, Kinds, collate, joined
from qanchor.errors import DataError
from qanchor.events.profiles import DAY, Profiles
from qanchor.probe.linear import probe

TRAINED: list[tuple[Callable[..., Any], int]] = [(CPC, 80), (MSDP, 70), (One4all, 60), (FOUND, 60)]
"""And the steps within which each has learned the toy world."""
if importlib.util.find_spec("ptls"):
    from qanchor.baselines.coles import CoLES

    TRAINED.append((CoLES, 40))


@pytest.fixture(scope="module")
def users():
    return world(600)


@pytest.fixture(scope="module", params=TRAINED, ids=lambda entry: entry[0].__name__)
def fitted(request, users):
    """A class, its steps and what it learned."""
    kind, steps = request.param
    return kind, steps, kind(seed=1, steps=steps, lr=5e-3, width=32, batch=48).fit(*users[:2])


def told_apart(features: np.ndarray, topic: np.ndarray) -> float:
    split = np.array(["train"] * 80 + ["validation"] * 80 + ["test"] * 440)
    return probe(features, (topic < 2).astype(np.float32), split).auc


def test_training_tells_topics_apart_that_names_do_not(fitted, users):
    kind, _, baseline = fitted
    past, future, topic = users
    before = kind(seed=1, steps=0, width=32).fit(past, future).embed(past)
    after = baseline.embed(past)
    assert after.dtype == np.float32
    assert np.isfinite(after).all()
    untrained, trained = told_apart(before, topic), told_apart(after, topic)
    assert trained > untrained + 0.01
    assert trained > 0.95


def test_a_seed_repeats_itself_and_another_differs(fitted, users):
    kind, _, _ = fitted
    some = np.arange(80)
    past, future = users[0].take(some), users[1].take(some)
    few = {"steps": 3, "width": 32, "batch": 16}
    first, again, other = (kind(seed=seed, **few).fit(past, future).embed(past) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other, atol=1e-3)


def test_a_user_is_alike_in_any_company_and_order(fitted, users):
    baseline, past = fitted[2], users[0]
    whole = baseline.embed(past)
    rows = np.random.default_rng(0).permutation(len(past))[:150]
    assert np.allclose(baseline.embed(past.take(rows)), whole[rows], atol=1e-5)
    assert np.allclose(baseline.embed(past.take(rows[:1])), whole[rows[:1]], atol=1e-5)
    assert baseline.embed(past.take(rows[:0])).shape == (0, whole.shape[1])


def test_nothing_at_or_after_as_of_is_seen(fitted, users):
    baseline, (past, future, _) = fitted[2], users
    at_once = replace(future, time=np.full_like(future.time, AS_OF))
    for ahead in (future, at_once):
        assert np.allclose(baseline.embed(joined(past, ahead)), baseline.embed(past), atol=1e-5)


def test_nobody_to_learn_from_is_an_error(fitted, users):
    nobody = users[0].take(np.array([len(users[0]) - 1] * 3))
    with pytest.raises(DataError, match="training profiles hold"):
        fitted[0]().fit(nobody, nobody)


def test_sequences_are_the_newest_events_in_order(users):
    past = users[0]
    long = past.take(np.arange(20))
    hoard = replace(long, offsets=np.array([0, len(long.time)]), user_ids=long.user_ids[:1], as_of=long.as_of[:1])
    hoard = replace(hoard, time=np.sort(long.time))
    seq = collate(hoard, np.array([0]))
    assert seq.real_BL.shape == (1, LENGTH)
    assert seq.event_BL[0].tolist() == list(range(len(long.time) - LENGTH, len(long.time)))
    assert np.rint(np.expm1(seq.count_BM)).sum() == len(long.time)
    rows = np.array([3, 599, 5])
    start, end = np.full(3, AS_OF - 60 * DAY), np.full(3, AS_OF - 20 * DAY)
    seq = collate(past, rows, start, end)
    for place, row in enumerate(rows):
        events = range(past.offsets[row], past.offsets[row + 1])
        inside = [e for e in events if start[0] <= past.time[e] < end[0]]
        assert seq.event_BL[place][seq.real_BL[place]].tolist() == inside
        text = seq.text_U[seq.text_BL[place][seq.real_BL[place]]].tolist() if inside else []
        assert text == past.text[inside].tolist()
        assert np.rint(np.expm1(seq.count_BM[place].numpy())).sum() == len(inside)


def test_msdp_predicts_the_shares_of_its_window(users):
    past, future, _ = users
    baseline = MSDP(steps=0, width=32).fit(past, future)
    rows = np.array([0, 1, 599])
    start, stop = past.as_of[rows] - 5 * DAY, past.as_of[rows] + DAYS[2] * DAY
    shares = baseline._shares(rows, start, stop).numpy()
    assert shares.sum(1) == pytest.approx(np.ones(3))
    assert shares[2, -1] == 1, "who does nothing does nothing"
    both, kinds = joined(past, future), Kinds(past)
    mine = [e for e in range(both.offsets[1], both.offsets[2]) if start[1] <= both.time[e] < stop[1]]
    assert shares[1][: len(kinds)] == pytest.approx(np.bincount(kinds.of(both)[mine], minlength=len(kinds)) / len(mine))


def test_masked_events_are_hidden(users):
    """What a masked event was makes no difference to any state."""
    past, future, _ = users
    baseline = One4all(steps=0, width=32).fit(past, future)
    events = len(past.time)
    other = replace(past, text=np.zeros(events, np.int32), value=np.full(events, 9, np.float32))
    seq, changed = (collate(of, np.arange(4)) for of in (past, other))
    state = baseline.reader(seq, baseline.indexed, seq.real_BL)
    altered = baseline.reader(changed, baseline.indexed, changed.real_BL)
    real = seq.real_BL
    assert np.allclose(state[:, 1:][real].detach(), altered[:, 1:][real].detach(), atol=1e-5)


def test_embeddings_need_no_row_numbers(users):
    """A text is known by its words, whatever its row in the text table."""
    past, future, _ = users
    baseline = CPC(steps=2, width=32).fit(past, future)
    flipped = replace(
        past.texts,
        modality=past.texts.modality[::-1],
        category=past.texts.category[::-1],
        text=past.texts.text[::-1],
    )
    moved: Profiles = replace(past, text=(len(past.texts) - 1 - past.text).astype(np.int32), texts=flipped)
    assert np.allclose(baseline.embed(past), baseline.embed(moved), atol=1e-5)
