"""A resumed run is the uninterrupted one, bit for bit; and it learns to tell users apart."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from conftest import random_profiles, tiny_towers

from qanchor.config import Pretrain
from qanchor.errors import TrainingError
from qanchor.model import persistence
from qanchor.training.pairs import Pairs
from qanchor.training.pretrain import Corpus, Pretraining, Step, Validation

SETTINGS = Pretrain(align_steps=6, steps=6, batch=8, pairs=2, lr=3e-3, validate_every=3)


def userqa(profiles) -> pl.DataFrame:
    """One question on each of three words: how many events name it."""
    rows = []
    keys = profiles.keys()
    for n, (user, as_of) in enumerate(keys.iter_rows()):
        own = profiles.text[profiles.offsets[n] : profiles.offsets[n + 1]]
        for word in ("coffee", "concert", "rent"):
            times = sum(word in profiles.texts.text[t] for t in own)
            rows.append((user, as_of, "uqa", word, f"how often does the user {word}?", f"{word} {times} times", 0))
    schema = ["user_id", "as_of", "source", "topic", "query", "answer", "cohort"]
    return pl.DataFrame(rows, schema=schema, orient="row", schema_overrides={"as_of": pl.Datetime("us")})


def corpora(towers):
    kept = np.array([8, 6])
    made = []
    for seed in (1, 2):
        profiles = random_profiles(40, seed)
        texts = towers.text_encoder.index(profiles.texts.text)
        made.append(Corpus.of(towers, profiles, Pairs(userqa(profiles), profiles), kept, texts))
    return made


def run(folder, stop_after=None):
    towers = tiny_towers(live=False).train()
    losses = []
    for done in Pretraining(towers, *corpora(towers), SETTINGS, 0, folder).run():
        if isinstance(done, Step):
            losses.append(done.loss)
        if isinstance(done, Validation) and (done.phase, done.step) == stop_after:
            return losses, None
    return losses, persistence.weights(towers)


@pytest.mark.parametrize("stop", [("align", 3), ("align", 6), ("open", 3)])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, stop):
    whole_losses, whole = run(tmp_path / "whole")
    first, _ = run(tmp_path / "cut", stop)
    rest, resumed = run(tmp_path / "cut")
    assert first + rest == whole_losses
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_crash_in_the_middle_of_a_checkpoint_leaves_the_old_one(tmp_path, monkeypatch):
    import os

    real, calls = os.replace, []

    def dies_at_the_swap(source, target):
        calls.append(target)
        if len(calls) == 6:  # the old checkpoint is moved away, the new one is not yet there
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", dies_at_the_swap)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut")
    monkeypatch.undo()
    _, resumed = run(tmp_path / "cut")
    _, whole = run(tmp_path / "whole")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


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
        Pairs(userqa(random_profiles(5)).with_columns(user_id=pl.lit("stranger")), random_profiles(5))


def test_a_batch_asks_all_its_users_the_same_topics():
    profiles = random_profiles(30)
    pairs = Pairs(userqa(profiles), profiles)
    drawn = pairs.draw(np.random.default_rng(0), 10, 2)
    for n, topic in enumerate(drawn.topic_N):
        assert {pairs.queries[q] for q in drawn.query_BN[:, n]} == {f"how often does the user {pairs.topics[topic]}?"}
    assert len(set(drawn.profile_B)) == 10
