"""Tuning moves prompts and prototypes only, starts from the base embedding, and keeps the best by validation."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import random_profiles, tiny_towers
from sklearn.metrics import roc_auc_score

from qanchor.config import Tune
from qanchor.errors import TrainingError
from qanchor.inference.engine import QAnchor
from qanchor.model import persistence
from qanchor.model.batch import collate
from qanchor.model.prefixes import PrefixCache
from qanchor.model.prompts import SoftPrompt
from qanchor.model.readout import Readout
from qanchor.training.sample import Labelled
from qanchor.training.tune import TuneCheck, TuneStep, Tuning, macro_auc

QUERIES = {"coffee": "will the user buy coffee?", "rent": "is rent due?"}
KEPT = np.array([8, 6])


class Recomputed:
    """What a `PrefixCache` gives, read anew whenever it is asked for."""

    def __init__(self, towers, profiles) -> None:
        self.towers, self.profiles = towers, profiles
        self.indexed = towers.text_encoder.index(profiles.texts.text)
        with torch.no_grad():
            whole = self.take(np.arange(len(profiles)))[0]
        self.length_N, self.tally_NY = whole.mask_BP.sum(1), whole.tally_BY

    def take(self, rows):
        with torch.no_grad():
            prefix = self.towers.prefix(collate(self.profiles, rows, KEPT), self.indexed)
            return prefix, self.towers.keys_values(prefix)


def occurrences(profiles, word: str) -> np.ndarray:
    """[N] how often texts with this word occur."""
    told = np.array([word in text for text in profiles.texts.text])
    return np.bincount(profiles.owner[told[profiles.text]], minlength=len(profiles))


def split(label: np.ndarray) -> Labelled:
    """Every other user trains, the rest validates."""
    row = np.arange(len(label))
    train = row % 2 == 0
    return Labelled(row[train], label[train], row[~train], label[~train])


def setting(users: int = 80):
    profiles, towers = random_profiles(users), tiny_towers()
    cache = PrefixCache([Recomputed(towers, profiles).take(np.arange(users))])
    labelled = {}
    for name in QUERIES:
        count = occurrences(profiles, name)
        labelled[name] = split((count > np.median(count)).astype(np.int64))
    return profiles, towers, cache, labelled


def days(cache) -> np.ndarray:
    """[N] two days, in turn."""
    return np.arange(len(cache.length_N)) // 2 % 2


def tuned(folder, towers, cache, labelled, settings, seed=0):
    tuning = Tuning(towers, cache, QUERIES, labelled, days(cache), {}, settings, seed, folder)
    return tuning, list(tuning.run())


def test_tuning_learns_and_leaves_the_model_alone(tmp_path):
    _, towers, cache, labelled = setting()
    before = persistence.fingerprint(towers)
    _, done = tuned(tmp_path, towers, cache, labelled, Tune(steps=30, batch=32, lr=3e-2, validate_every=15))
    checks = [event for event in done if isinstance(event, TuneCheck)]
    assert persistence.fingerprint(towers) == before
    assert all(parameter.requires_grad for parameter in towers.parameters())
    assert [check.step for check in checks] == [0, 15, 30]
    assert np.mean(list(checks[-1].kept.values())) > np.mean(list(checks[0].auc.values())) + 0.02
    for name in QUERIES:  # what is kept had the lowest loss
        best = min(checks, key=lambda check: check.loss[name])
        assert checks[-1].kept[name] == best.auc[name]


def test_an_untuned_prompt_is_the_base_embedding_and_a_tuned_one_is_not(tmp_path):
    profiles, towers, cache, labelled = setting()
    model, fingerprint = QAnchor(towers), persistence.fingerprint(towers)
    base = model.embed(profiles, queries=list(QUERIES.values()))
    nothing = torch.zeros(2, towers.dim)
    model.prompts = {
        name: SoftPrompt(name, query, towers.prompt, nothing, fingerprint) for name, query in QUERIES.items()
    }
    assert np.allclose(model.embed(profiles, scenarios=list(QUERIES)), base, atol=1e-6)
    tuning, _ = tuned(tmp_path, towers, cache, labelled, Tune(steps=10, batch=16, validate_every=10))
    model.prompts = {
        name: replace(prompt, readout=Readout.none()) for name, prompt in tuning.prompts(fingerprint).items()
    }
    assert {name: prompt.query for name, prompt in model.prompts.items()} == QUERIES
    assert not np.allclose(model.embed(profiles, scenarios=list(QUERIES)), base, atol=1e-2)


def test_a_tuned_embedding_holds_its_readout_and_prototypes_are_its_class_means(tmp_path):
    profiles, towers, cache, labelled = setting()
    tuning, _ = tuned(tmp_path, towers, cache, labelled, Tune(steps=2, batch=16, validate_every=2))
    model = QAnchor(towers, tuning.prompts(persistence.fingerprint(towers)))
    user_NGO = model.embed(profiles, scenarios=list(QUERIES))
    for g, (name, part) in enumerate(labelled.items()):
        along_N = user_NGO[:, g].mean(-1)  # the first direction is all numbers alike
        assert roc_auc_score(part.train_label, along_N[part.train_row]) > 0.8
        for c in (0, 1):
            mean_O = user_NGO[part.train_row[part.train_label == c], g].mean(0)
            prototype_O = model.prompts[name].prototype_CO[c].numpy()
            np.testing.assert_allclose(mean_O / np.linalg.norm(mean_O), prototype_O, atol=0.02)


def test_spilled_equals_kept_in_memory_to_the_bit_and_recomputed_to_rounding(tmp_path):
    profiles, towers, memory, labelled = setting()
    recomputed = Recomputed(towers, profiles)
    spilled = PrefixCache([recomputed.take(np.arange(len(profiles)))], 0, tmp_path)
    assert (memory.place, spilled.place) == ("cpu", "disk")
    settings = Tune(steps=4, batch=8, validate_every=2)
    kept, events = tuned(tmp_path / "memory", towers, memory, labelled, settings)
    other, events_2 = tuned(tmp_path / "disk", towers, spilled, labelled, settings)
    anew, _ = tuned(tmp_path / "anew", towers, recomputed, labelled, settings)
    assert events == events_2
    assert torch.equal(kept.learned.prompt_GKD, other.learned.prompt_GKD)
    torch.testing.assert_close(kept.learned.prompt_GKD, anew.learned.prompt_GKD, atol=1e-4, rtol=0)


def test_a_scenario_learns_the_same_alone_and_in_company(tmp_path):
    profiles, towers, cache, labelled = setting()
    settings = Tune(steps=4, batch=12, validate_every=4)
    count = occurrences(profiles, "rent")
    company = {"coffee": labelled["coffee"], "rent": split(np.minimum(count, 2))}  # of other classes, too
    together, _ = tuned(tmp_path / "both", towers, cache, company, settings)
    for g, name in enumerate(company):
        alone, _ = tuned(tmp_path / name, towers, cache, {name: company[name]}, settings)
        prompt_KD = together.learned.prompt_GKD[g]
        torch.testing.assert_close(alone.learned.prompt_GKD[0], prompt_KD, atol=1e-4, rtol=0)
        assert not torch.allclose(towers.prompt, prompt_KD, atol=1e-2)


def test_several_classes_are_told_apart(tmp_path):
    profiles, towers, cache, _ = setting()
    count = occurrences(profiles, "coffee")
    labelled = {"coffee": split(np.digitize(count, np.quantile(count, [1 / 3, 2 / 3])).astype(np.int64))}
    tuning, done = tuned(tmp_path, towers, cache, labelled, Tune(steps=30, batch=30, lr=3e-2, validate_every=15))
    checks = [event for event in done if isinstance(event, TuneCheck)]
    assert checks[-1].auc["coffee"] > checks[0].auc["coffee"] + 0.03  # learned; what is kept goes by the loss
    prompt = tuning.prompts("model")["coffee"]
    assert prompt.classes == 3
    torch.testing.assert_close(prompt.prototype_CO.norm(dim=-1), torch.ones(3))


def test_rare_positives_are_half_of_every_batch_and_are_learned_from(tmp_path):
    profiles, towers, cache, _ = setting()
    count = occurrences(profiles, "coffee")
    labelled = {"coffee": split((count > np.sort(count)[-10]).astype(np.int64))}
    settings = Tune(steps=20, batch=16, lr=3e-2, validate_every=20)
    tuning, done = tuned(tmp_path, towers, cache, labelled, settings)
    positives = set(labelled["coffee"].train_row[labelled["coffee"].train_label == 1].tolist())
    assert 0 < len(positives) < 8
    for step in range(3):
        row_B, class_B = tuning._draw("coffee", step, 16)
        assert class_B.sum() == 8
        assert [row in positives for row in row_B.tolist()] == (class_B == 1).tolist()
    losses = [event.loss for event in done if isinstance(event, TuneStep)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.05


def test_macro_auc_is_the_auc_of_two_classes_and_the_mean_of_one_against_the_rest():
    label = np.array([0, 1, 0, 1, 1, 0])
    logit = torch.tensor([[0.0, -1], [0, 2], [0, 0.5], [0, 0.1], [0, 3], [0, -4]])
    assert macro_auc(label, logit) == pytest.approx(8 / 9)  # one of nine pairs is the wrong way round
    perfect = torch.eye(3)[[0, 1, 2, 2]]
    assert macro_auc(np.array([0, 1, 2, 2]), perfect) == 1
    assert macro_auc(np.array([0, 2, 0, 2]), perfect) == pytest.approx((3 / 4 + 2 / 4) / 2)  # one does not occur


@pytest.mark.parametrize(
    ("train", "validation", "reason"),
    [
        ([0, 0, 0], [0, 1, 1], "has only one class among its 3 training users, expected two or more"),
        ([0, 1, 0], [1, 1, 1], "has only one class among its 3 validation users, expected two or more"),
        ([0, 2, 0], [0, 2, 0], "has no training user of class 1, expected some of each from 0 to the highest"),
        ([0, 1, 0], [0, 2, 0], "has no training user of class 2"),
        ([], [0, 1, 0], "has only one class among its 0 training users"),
    ],
)
def test_a_scenario_that_lacks_a_class_is_refused(tmp_path, train, validation, reason):
    _, towers, cache, _ = setting(6)
    part = [np.array(x, np.int64) for x in (range(len(train)), train, range(3, 6), validation)]
    with pytest.raises(TrainingError, match=f"scenario 'rent' {reason}"):
        Tuning(towers, cache, QUERIES, {"rent": Labelled(*part)}, days(cache), {}, Tune(), 0, tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_before_the_step_is_taken(tmp_path):
    _, towers, cache, labelled = setting()
    tuning = Tuning(towers, cache, QUERIES, labelled, days(cache), {}, Tune(temperature=1e-45), 0, tmp_path)
    before = tuning.learned.prompt_GKD.detach().clone()
    with pytest.raises(
        TrainingError, match=r"loss of scenario 'coffee' is (nan|inf) after 0 steps.*training\.tune\.lr"
    ):
        list(tuning.run())
    assert torch.equal(tuning.learned.prompt_GKD, before)
    assert all(parameter.requires_grad for parameter in towers.parameters())


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    _, towers, cache, labelled = setting()
    settings = Tune(steps=9, batch=16, validate_every=3)

    def run(folder, stop=None):
        tuning, losses = Tuning(towers, cache, QUERIES, labelled, days(cache), {}, settings, 0, folder), []
        with contextlib.closing(tuning.run()) as events:
            for done in events:
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
    assert torch.equal(resumed.best_prototype_GCO, whole.best_prototype_GCO)
