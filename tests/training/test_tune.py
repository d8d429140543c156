"""Tuning moves prompts and prototypes only, starts from the base embedding, and keeps the best by validation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import random_profiles, tiny_towers

from qanchor.config import Tune
from qanchor.errors import TrainingError
from qanchor.inference.engine import QAnchor
from qanchor.model import persistence
from qanchor.model.batch import collate
from qanchor.model.prefixes import PrefixCache
from qanchor.model.prompts import SoftPrompt
from qanchor.training.tune import Labelled, TuneCheck, TuneStep, Tuning

QUERIES = {"coffee": "will the user buy coffee?", "rent": "is rent due?"}


def setting(users: int = 80):
    profiles, towers = random_profiles(users), tiny_towers()
    indexed = towers.text_encoder.index(profiles.texts.text)
    with torch.no_grad():
        prefix = towers.prefix(collate(profiles, np.arange(users), np.array([8, 6])), indexed)
        cache = PrefixCache([(prefix, towers.keys_values(prefix))])
    labelled = {}
    for name in QUERIES:
        counts = np.array(
            [
                sum(
                    name in profiles.texts.text[t] for t in profiles.text[profiles.offsets[n] : profiles.offsets[n + 1]]
                )
                for n in range(users)
            ]
        )
        label = (counts > np.median(counts)).astype(np.int64)
        half = np.arange(users) % 2 == 0
        labelled[name] = Labelled(np.flatnonzero(half), label[half], np.flatnonzero(~half), label[~half])
    return profiles, towers, cache, labelled


def test_tuning_learns_and_leaves_the_model_alone(tmp_path):
    _, towers, cache, labelled = setting()
    before = persistence.fingerprint(towers)
    tuning = Tuning(towers, cache, QUERIES, labelled, Tune(steps=60, batch=32, validate_every=20), 0, tmp_path)
    checks = [done for done in tuning.run() if isinstance(done, TuneCheck)]
    assert persistence.fingerprint(towers) == before
    assert all(parameter.requires_grad for parameter in towers.parameters())
    assert checks[0].step == 0
    assert all(checks[-1].best[name] >= checks[0].auc[name] for name in QUERIES)
    assert np.mean(list(checks[-1].best.values())) > np.mean(list(checks[0].auc.values())) + 0.02


def test_an_untuned_prompt_is_the_base_embedding_and_a_tuned_one_is_not(tmp_path):
    profiles, towers, cache, labelled = setting()
    model = QAnchor(towers)
    base = model.embed(profiles, queries=list(QUERIES.values()))
    tuning = Tuning(towers, cache, QUERIES, labelled, Tune(steps=30, batch=32, validate_every=30), 0, tmp_path)
    start = tuning.learned.prompt_GKD.detach().clone()
    list(tuning.run())
    fingerprint = persistence.fingerprint(towers)
    for prompts, same in ((start, True), (tuning.learned.prompt_GKD.detach(), False)):
        model.prompts = {
            name: SoftPrompt(name, QUERIES[name], prompts[g], tuning.learned.best_prototype_GCO[g], fingerprint)
            for g, name in enumerate(QUERIES)
        }
        assert np.allclose(model.embed(profiles, scenarios=list(QUERIES)), base, atol=1e-6) == same


def test_a_scenario_with_one_class_is_refused(tmp_path):
    _, towers, cache, labelled = setting()
    part = labelled["rent"]
    labelled["rent"] = Labelled(
        part.train_row, np.zeros_like(part.train_label), part.validation_row, part.validation_label
    )
    with pytest.raises(TrainingError, match="'rent' has only one class among its 40 training users, expected both"):
        Tuning(towers, cache, QUERIES, labelled, Tune(), 0, tmp_path)


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    _, towers, cache, labelled = setting()
    settings = Tune(steps=9, batch=16, validate_every=3)

    def run(folder, stop=None):
        tuning, losses = Tuning(towers, cache, QUERIES, labelled, settings, 0, folder), []
        for done in tuning.run():
            if isinstance(done, TuneStep):
                losses.append(done.loss)
            elif done.step == stop:
                break
        return losses, tuning.learned

    whole_losses, whole = run(tmp_path / "whole")
    first, _ = run(tmp_path / "cut", stop=6)
    rest, resumed = run(tmp_path / "cut")
    assert first + rest == whole_losses
    assert torch.equal(resumed.prompt_GKD, whole.prompt_GKD)
    assert torch.equal(resumed.best_prompt_GKD, whole.best_prompt_GKD)
