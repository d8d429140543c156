"""Readouts: what is written into an embedding, by which suffixes, and what a tally holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import random_profiles, tiny_towers
from hypothesis import given, settings
from hypothesis import strategies as st

from qanchor.events.profiles import DAY
from qanchor.inference.engine import QAnchor
from qanchor.model import persistence
from qanchor.model.batch import COUNT_FEATURES, FOR_FORESTS, FOR_LINES, TALLY, collate
from qanchor.model.prompts import SoftPrompt
from qanchor.model.readout import CUTS, LEAVES, LINES, Readout, common, directions, written
from qanchor.model.tally import COUNT_PLACES, COUNTS, HABIT_COUNTS, HABIT_PLACES, SHARE, SIZE, amounts, habits, tally
from qanchor.probe.linear import REACH

KEPT = np.array([8, 6])
QUERIES = ["will this user buy coffee soon?", "concert"]
OWN = 7


def readout(classes: int, trees: int = 5) -> Readout:
    """Of random lines, and trees whose cuts are met by some amounts and not by others."""
    width = TALLY - FOR_LINES.start + OWN
    lines = torch.cat([torch.randn(1, width), torch.rand(1, width) + 0.5, 0.1 * torch.randn(classes, width)])
    feature = torch.randint(FOR_FORESTS.stop, (classes, trees, CUTS))
    return Readout(lines, feature, torch.randn(classes, trees, CUTS), torch.randn(classes, trees, LEAVES))


def known(users: int, suffixes: int):
    embedding = torch.nn.functional.normalize(torch.randn(users, suffixes, 16), dim=-1)
    return torch.randn(users, TALLY), torch.randn(users, suffixes, OWN), embedding


def slowly(one: Readout, tally_Y, own_Z) -> list[float]:
    """What a readout says of each class, cut by cut, in float64."""
    known_V = torch.cat([tally_Y[FOR_LINES], own_Z]).double()
    mean, scale, *lines = one.line_RV.double()
    standard = ((known_V - mean) * scale).clamp(-REACH, REACH)
    said = [float(standard @ line) for line in lines]
    for c, trees in enumerate(zip(one.feature_CTK, one.threshold_CTK, one.leaf_CTL, strict=True)):
        for feature, threshold, leaf in zip(*trees, strict=True):
            k = 0
            while k < CUTS:
                k = 2 * k + (1 if tally_Y[FOR_FORESTS][feature[k]] <= threshold[k] else 2)
            said[c] += float(leaf[k - CUTS])
    return said


def test_directions_are_orthonormal():
    for width in (16, 128):
        own = torch.cat([directions(8, width), common(width)[None]])
        torch.testing.assert_close(own @ own.T, torch.eye(9), atol=1e-5, rtol=0)


@pytest.mark.parametrize("classes", [1, 3])
def test_an_embedding_holds_the_readout_along_its_directions_and_the_rest_as_it_was(classes):
    torch.manual_seed(0)
    one, (tally_BY, own_BNZ, embedding) = readout(classes), known(5, 2)
    told = written(Readout.stack([one, one], torch.device("cpu")), tally_BY, own_BNZ, embedding)
    along, alike = directions(classes, 16).double(), common(16).double()
    for b in range(5):
        rest = embedding[b, 1].double()
        rest = rest - sum((rest @ d) * d for d in (*along, alike))
        said = slowly(one, tally_BY[b], own_BNZ[b, 1])
        whole = 3 * alike + rest / rest.norm() / 20 + sum(s * d for s, d in zip(said, along, strict=True))
        torch.testing.assert_close(told[b, 1].double(), whole / whole.norm(), atol=1e-5, rtol=0)


def test_suffixes_say_the_same_beside_others_of_more_classes_and_trees():
    torch.manual_seed(0)
    device, (tally_BY, own_BNZ, embedding) = torch.device("cpu"), known(4, 3)
    each = [readout(1, 3), Readout.none(), readout(3, 6)]
    together = Readout.stack(each, device)
    told = written(together, tally_BY, own_BNZ, embedding)
    for n, one in enumerate(each):
        alone = written(Readout.stack([one], device), tally_BY, own_BNZ[:, n : n + 1], embedding[:, n : n + 1])
        torch.testing.assert_close(told[:, n], alone[:, 0], atol=1e-6, rtol=0)
    torch.testing.assert_close(told[:, 1], embedding[:, 1], atol=1e-6, rtol=0)
    assert not torch.allclose(told[:, 0], embedding[:, 0], atol=1e-2)
    own_BN = torch.tensor([[2, 0], [0, 1], [1, 2], [0, 0]])
    row_B1 = torch.arange(4)[:, None]
    taken = written(together.take(own_BN), tally_BY, own_BNZ[row_B1, own_BN], embedding[row_B1, own_BN])
    torch.testing.assert_close(taken, told[row_B1, own_BN], atol=1e-6, rtol=0)


def test_a_forest_is_heard_where_no_line_is_believed():
    torch.manual_seed(0)
    one, (tally_BY, own_BNZ, embedding) = readout(1), known(5, 1)
    one.line_RV[LINES:] = 0
    told = written(Readout.stack([one], torch.device("cpu")), tally_BY, own_BNZ, embedding)
    along_O = directions(1, 16)[0]
    for b in range(5):
        said = slowly(one, tally_BY[b], own_BNZ[b, 0])[0]
        assert float(told[b, 0] @ along_O) == pytest.approx(said / (9 + 0.05**2 + said**2) ** 0.5, abs=1e-5)


def test_paths_agree_where_scenarios_have_readouts_of_several_classes_or_none(tmp_path):
    towers, profiles = tiny_towers(), random_profiles(12)
    fingerprint = persistence.fingerprint(towers)
    torch.manual_seed(1)
    prompts = {}
    for name, one in (("coffee", readout(1)), ("much", readout(3))):
        width = TALLY - FOR_LINES.start + sum(towers.own)
        wide = torch.nn.functional.pad(one.line_RV, (0, width - one.line_RV.shape[1]))
        own = replace(one, line_RV=wide)
        prompts[name] = SoftPrompt(
            name, QUERIES[0], towers.prompt.detach(), torch.zeros(2, 16), fingerprint, readout=own
        )
    model = QAnchor(towers, prompts)
    packed, cached, plain = (
        model.embed(profiles, ["coffee", "much"], QUERIES, path=path) for path in ("packed", "cached", "plain")
    )
    for other in (cached, plain, model.ask(model.read(profiles), ["coffee", "much"], QUERIES)):
        np.testing.assert_allclose(packed, other, atol=0.02)
    np.testing.assert_allclose(packed[:, 2:], model.embed(profiles, queries=QUERIES), atol=0.02)
    assert np.abs(packed[:, 0] - packed[:, 2]).max() > 0.1
    model.save_pretrained(tmp_path / "model")
    again = QAnchor.from_pretrained(tmp_path / "model").embed(profiles, ["coffee", "much"])
    np.testing.assert_allclose(again, packed[:, :2], atol=0.02)


def test_a_tally_depends_on_its_user_alone():
    profiles = random_profiles(9)
    together = collate(profiles, np.arange(9), KEPT).tally_BW
    assert together.shape == (9, TALLY)
    for row in range(9):
        assert torch.equal(collate(profiles, np.array([row]), KEPT).tally_BW[0], together[row])


def test_without_a_user_token_there_is_no_tally():
    towers, profiles = tiny_towers(user_token=False), random_profiles(3)
    prefix = towers.prefix(collate(profiles, np.arange(3), KEPT), towers.text_encoder.index(profiles.texts.text))
    assert not prefix.tally_BY.any()


@given(st.lists(st.integers(0, 300), min_size=1, max_size=6))
@settings(deadline=None, max_examples=40)
def test_each_step_that_a_count_has_climbed_has_a_place(counts):
    feature = np.zeros((len(counts), COUNT_FEATURES), np.float32)
    feature[:, 3] = np.log1p(counts)
    told = tally(len(counts), np.arange(len(counts)), np.full(len(counts), 7), feature)
    assert told.shape == (len(counts), COUNT_PLACES)
    for row, count in enumerate(counts):
        climbed = sum(count >= step for step in COUNTS)
        assert (told[row] != 0).sum() == climbed + (count > 0)  # and one for its size
        assert np.abs(told[row]).sum() == pytest.approx(climbed + SIZE * np.log1p(count), abs=1e-4)


def test_groups_and_features_have_places_of_their_own():
    feature = np.eye(COUNT_FEATURES, dtype=np.float32)[[0, 0, 3]] * 5
    told = tally(3, np.arange(3), np.array([7, 8, 7]), feature)
    for one, other in ((0, 1), (0, 2)):
        assert (told[one] != 0).sum() > 5
        assert ((told[one] != 0) & (told[other] != 0)).sum() <= 2  # some of 512 places are met by chance


def test_habits_are_counts_of_what_events_have_in_common_and_their_shares():
    daily = np.arange(12) * DAY + DAY * 2 // 5  # at 9:36
    gap, worth, kind = np.arange(6)[::-1] * 1.0, np.full(6, 9.0), np.full(6, 3)
    told = habits(2, np.repeat([0, 1], 6), np.tile(kind, 2), daily, np.tile(gap, 2), np.tile(worth, 2))
    assert told.shape == (2, HABIT_PLACES)
    hours = sum(step < 6 for step in HABIT_COUNTS) + SHARE  # all at one hour
    assert np.abs(told[0]).sum() > 2 * hours  # of its modality, and of all
    alone = [habits(1, np.zeros(6, np.int64), kind, time, gap, worth)[0] for time in (daily[6:], daily[:6] + 700 * DAY)]
    np.testing.assert_array_equal(alone[0], told[1])
    np.testing.assert_array_equal(alone[1], told[0])  # a hundred weeks later, the same habits
    assert habits(1, *(np.zeros(0, kind) for kind in (int, int, int, float, float))).sum() == 0


def test_amounts_are_the_features_of_groups_that_have_a_place_alone_and_sums_of_those_that_share_one():
    rng = np.random.default_rng(0)
    feature = rng.random((6, 3)).astype(np.float32)
    owner, code = np.array([0, 0, 1, 1, 1, 3]), np.array([5, 9, 5, 9, 400, 5])
    told = amounts(4, 64, owner, code, feature).reshape(4, 64, 3)
    place = {
        c: np.flatnonzero(amounts(1, 64, np.array([0]), np.array([c]), np.ones((1, 1), np.float32))[0])[0]
        for c in (5, 9, 400)
    }
    assert len(set(place.values())) == 3
    for b, c, own in zip(owner, code, feature, strict=True):
        np.testing.assert_allclose(told[b, place[c]], own)
    assert not told[2].any()
    np.testing.assert_allclose(amounts(4, 1, owner, code, feature)[1], feature[2:5].sum(0), rtol=1e-6)
