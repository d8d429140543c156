"""Readouts: what is written into an embedding, by which suffixes, and what a tally holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import random_profiles, tiny_towers
from hypothesis import given, settings
from hypothesis import strategies as st

from qanchor.events.profiles import DAY
from qanchor.inference.engine import QAnchor
from qanchor.model import persistence
from qanchor.model.batch import COUNT_FEATURES, TALLY, collate
from qanchor.model.prompts import SoftPrompt
from qanchor.model.readout import LINES, directions, written
from qanchor.model.tally import COUNT_PLACES, COUNTS, HABIT_COUNTS, HABIT_PLACES, SHARE, SIZE, habits, tally
from qanchor.probe.linear import REACH

KEPT = np.array([8, 6])
QUERIES = ["will this user buy coffee soon?", "concert"]


def readout(lines: int, width: int) -> torch.Tensor:
    return torch.cat([torch.randn(1, width), torch.rand(1, width) + 0.5, torch.randn(lines, width)])


def test_directions_are_orthonormal():
    for width in (16, 128):
        own = directions(8, width)
        torch.testing.assert_close(own @ own.T, torch.eye(8), atol=1e-5, rtol=0)


@pytest.mark.parametrize("lines", [1, 3])
def test_an_embedding_holds_the_readout_along_its_directions_and_the_rest_as_it_was(lines):
    torch.manual_seed(0)
    known, embedding = torch.randn(5, 2, 7), torch.nn.functional.normalize(torch.randn(5, 2, 16), dim=-1)
    own = readout(lines, 7)
    told = written(own, known, embedding)
    along = directions(lines, 16)
    for b in range(5):  # slowly, in float64
        standard = ((known[b, 1].double() - own[0].double()) * own[1].double()).clamp(-REACH, REACH)
        rest = embedding[b, 1].double()
        rest = rest - sum((rest @ d.double()) * d.double() for d in along)
        rest = rest / rest.norm()
        whole = rest + sum((standard @ own[LINES + c].double()) * along[c].double() for c in range(lines))
        torch.testing.assert_close(told[b, 1].double(), whole / whole.norm(), atol=1e-5, rtol=0)


def test_a_suffix_without_lines_keeps_its_embedding():
    torch.manual_seed(0)
    known, embedding = torch.randn(4, 2, 7), torch.nn.functional.normalize(torch.randn(4, 2, 16), dim=-1)
    both = torch.stack([readout(1, 7), torch.zeros(LINES + 1, 7)])
    told = written(both, known, embedding)
    assert not torch.allclose(told[:, 0], embedding[:, 0], atol=1e-2)
    torch.testing.assert_close(told[:, 1], embedding[:, 1], atol=1e-6, rtol=0)


def test_paths_agree_where_scenarios_have_readouts_of_several_classes_or_none(tmp_path):
    towers, profiles = tiny_towers(), random_profiles(12)
    width, fingerprint = sum(towers.known), persistence.fingerprint(towers)
    torch.manual_seed(1)
    prompts = {
        name: SoftPrompt(
            name, QUERIES[0], towers.prompt.detach(), torch.zeros(2, 16), fingerprint, readout_RY=0.1 * lines
        )
        for name, lines in (("coffee", readout(1, width)), ("much", readout(3, width)))
    }
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
