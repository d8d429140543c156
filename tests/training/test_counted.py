"""What counting says is fitted once, killed or not, alone or in company, and kept as it was."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import WORDS, random_profiles

from qanchor.model.vocabulary import Vocabulary
from qanchor.training import counted
from qanchor.training.counted import Counted
from qanchor.training.sample import Labelled, Sample

VOCABULARY = Vocabulary(tuple(WORDS[:6]))


def world(users: int = 240):
    profiles = random_profiles(users)
    busy = profiles.counts > np.median(profiles.counts)
    row = np.arange(users)

    def labelled(label: np.ndarray) -> Labelled:
        return Labelled(row[::2], label[::2], row[1::2], label[1::2])

    parts = {"busy": labelled(busy.astype(np.int64)), "odd": labelled(row // 3 % 2)}
    return profiles, {name: part.sample(row % 4) for name, part in parts.items()}


def arrays(one: Counted) -> list[np.ndarray]:
    return [array for part in (one.lines, one.words, one.forest) for array in vars(part).values()]


def same(one: Counted, other: Counted) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(arrays(one), arrays(other), strict=True))


def test_killed_and_gone_on_with_equals_uninterrupted_whatever_the_company(tmp_path):
    profiles, samples = world()
    assert list(counted.fit_all(profiles, VOCABULARY, samples, tmp_path / "whole", 2)) == ["busy", "odd"]
    first = next(iter(counted.fit_all(profiles, VOCABULARY, {"odd": samples["odd"]}, tmp_path / "cut", 1)))
    assert first == "odd"
    before = (tmp_path / "cut" / "odd.safetensors").stat().st_mtime_ns
    assert sorted(counted.fit_all(profiles, VOCABULARY, samples, tmp_path / "cut", 1)) == ["busy", "odd"]
    assert (tmp_path / "cut" / "odd.safetensors").stat().st_mtime_ns == before
    for name in samples:
        whole, cut = (Counted.load(tmp_path / folder / f"{name}.safetensors") for folder in ("whole", "cut"))
        assert same(whole, cut)
        assert whole.lines.line_CV.any() or name == "odd"


def test_saved_and_loaded_is_as_before(tmp_path):
    profiles, samples = world()
    one = counted.fitted(counted.tallies(profiles, VOCABULARY), samples["busy"])
    one.save(tmp_path / "busy.safetensors")
    assert same(Counted.load(tmp_path / "busy.safetensors"), one)


def test_a_tally_depends_on_its_user_alone():
    profiles, _ = world(30)
    whole = counted.tallies(profiles, VOCABULARY)
    assert np.array_equal(counted.tallies(profiles.take(np.array([7, 3])), VOCABULARY), whole[[7, 3]])


def test_scenarios_of_the_same_users_take_the_same_sample(monkeypatch):
    monkeypatch.setattr("qanchor.training.sample.ROWS", 20)
    row, as_of = np.arange(100), np.zeros(100, np.int64)
    one = Labelled(row[:60], row[:60] % 2, row[60:], row[60:] % 2).sample(as_of)
    other = Labelled(row[:60], row[:60] // 2 % 2, row[60:], row[60:] % 2).sample(as_of)
    assert np.array_equal(one.row_R, other.row_R)
    assert len(one.train) == 20
    some = Labelled(row[30:60], row[30:60] % 2, row[60:], row[60:] % 2).sample(as_of)
    taken = set(some.row_R[some.train].tolist())
    assert {r for r in one.row_R[one.train].tolist() if r >= 30} <= taken


def test_a_sample_reads_the_classes_that_can_be_chosen_for():
    split = np.repeat(["train", "validation"], [6, 4])

    def read(*classes: int) -> int:
        return len(Sample(np.arange(10), np.array(classes), split, np.zeros(10, np.int64)).label_CR)

    assert read(0, 1, 0, 1, 0, 1, 0, 1, 0, 1) == 1
    assert read(0, 1, 2, 0, 1, 2, 0, 1, 0, 1) == 2


@pytest.mark.parametrize("classes", [1, 3])
def test_silence_has_the_shapes_of_what_is_said(classes):
    profiles, samples = world()
    busy = samples["busy"]
    sample = Sample(busy.row_R, busy.class_R if classes == 1 else busy.row_R % 3, busy.split_R, busy.as_of_R)
    for a, b in zip(
        arrays(Counted.silent(sample)),
        arrays(counted.fitted(counted.tallies(profiles, VOCABULARY)[sample.row_R], sample)),
        strict=True,
    ):
        assert len(a) == len(b)
        assert a.dtype == b.dtype
        assert not a.any()
