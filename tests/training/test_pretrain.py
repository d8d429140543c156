"""A resumed run is the uninterrupted one, bit for bit; and it learns to tell users apart."""

from __future__ import annotations

import os

import numpy as np
import polars as pl
import pytest
import torch
from conftest import random_profiles, tiny_towers
from training_world import SETTINGS, corpora, userqa

from qanchor.errors import TrainingError
from qanchor.model import persistence
from qanchor.training.pairs import Pairs
from qanchor.training.pretrain import Pretraining, Step, Validation


def run(folder, stop_after=None):
    towers = tiny_towers(live=False).train()
    losses = []
    for done in Pretraining(towers, *corpora(towers), SETTINGS, 0, folder).run():
        if isinstance(done, Step):
            losses.append(done.loss)
        if isinstance(done, Validation) and (done.phase, done.step) == stop_after:
            return losses, None
    return losses, persistence.weights(towers)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("stop", [("align", 3), ("align", 6), ("open", 3)])
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, whole, stop):
    losses, weights = whole
    first, _ = run(tmp_path / "cut", stop)
    rest, resumed = run(tmp_path / "cut")
    assert first + rest == losses
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_a_crash_in_the_middle_of_a_checkpoint_leaves_the_old_one(tmp_path, monkeypatch, whole):
    real, calls = os.replace, []

    def dies_at_the_rename(source, target):
        calls.append(target.name)
        if calls.count("last-1"):
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", dies_at_the_rename)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut")
    monkeypatch.undo()
    assert (tmp_path / "cut" / "last.new" / "position.json").exists()
    _, resumed = run(tmp_path / "cut")
    assert all(torch.equal(whole[1][name], resumed[name]) for name in resumed)


def test_training_lowers_the_loss(tmp_path):
    towers = tiny_towers(live=False).train()
    settings = SETTINGS.model_copy(update={"align_steps": 40, "steps": 20, "validate_every": 40})
    losses = [
        d.contrastive for d in Pretraining(towers, *corpora(towers), settings, 0, tmp_path).run() if isinstance(d, Step)
    ]
    assert np.mean(losses[30:40]) < np.mean(losses[:10]) - 0.1
    assert np.mean(losses[-10:]) < np.mean(losses[30:40])


def test_a_loss_that_is_not_finite_stops_the_run_and_names_users(tmp_path):
    towers = tiny_towers()
    train, validation = corpora(towers)
    with torch.no_grad():
        towers.hierarchy.count_in.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"step 0 of align, users u\d+"):
        list(Pretraining(towers, train, validation, SETTINGS, 0, tmp_path).run())


def test_pairs_of_other_users_are_refused():
    with pytest.raises(TrainingError, match="UserU holds no pair"):
        Pairs(
            userqa(random_profiles(5)).with_columns(user_id=pl.lit("stranger")),
            random_profiles(5).keys(),
            random_profiles(5),
        )


def test_a_batch_asks_all_its_users_the_same_topics():
    profiles = random_profiles(30)
    pairs = Pairs(userqa(profiles), profiles.keys(), profiles)
    drawn = pairs.draw(np.random.default_rng(0), 10, 2)
    for n, topic in enumerate(drawn.topic_BN[0]):
        assert {pairs.queries[q] for q in drawn.query_LN[:, n]} == {f"how often does the user {pairs.topics[topic]}?"}
    assert (drawn.topic_BN == drawn.topic_BN[0]).all()
    assert len(set(drawn.profile_L)) == 10
