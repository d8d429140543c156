"""Profiles by id: what was put is what is read, one transaction at a time, and what is dropped leaves no trace."""

from __future__ import annotations

import contextlib
import datetime as dt

import numpy as np
import polars as pl
import pytest
from conftest import random_profiles

from qanchor.errors import DataError
from qanchor.events.profile_store import ProfileShard, ProfileStore, State, shard_path
from qanchor.events.profiles import DAY
from qanchor.events.shards import shard_of

NOW = State(dt.date(2024, 10, 4), {"2024-10-03": "shard=0.abc.parquet"})


def filled(folder, profiles, shards=2):
    place = shard_of(pl.Series(profiles.user_ids.tolist()), shards)
    for shard in range(shards):
        kept = ProfileShard(shard_path(folder, shard))
        with kept.writing():
            kept.put(profiles.take(np.flatnonzero(place == shard)))
            kept.stand_at(NOW)
        kept.close()
    return ProfileStore(folder, shards, profiles.modalities)


def test_a_profile_comes_back_as_it_was(tmp_path):
    profiles = random_profiles(30)
    store = filled(tmp_path, profiles)
    for n in range(1, 30):
        own, got = profiles.take(np.array([n])), store.get(f"u{n}", profiles.texts)
        for name in ("time", "modality", "text", "value", "offsets"):
            np.testing.assert_array_equal(getattr(got, name), getattr(own, name))
    assert got.as_of.tolist() == [20_000 * DAY]
    for user in ("u0", "nobody"):  # u0 has no events
        with pytest.raises(DataError, match="has no profile"):
            store.get(user, profiles.texts)
    assert store.states() == {0: NOW, 1: NOW}
    with pytest.raises(DataError, match="qanchor refresh"):
        ProfileStore(tmp_path / "elsewhere", 2, profiles.modalities).get("u1", profiles.texts)


def test_readers_see_the_day_before_until_the_commit(tmp_path):
    profiles = random_profiles(30)
    store = filled(tmp_path, profiles, 1)
    writer = ProfileShard(shard_path(tmp_path, 0))
    with contextlib.suppress(KeyboardInterrupt), writer.writing():
        writer.drop(["u3"])
        assert writer.events("u3") is None
        assert len(store.get("u3", profiles.texts).time)
        raise KeyboardInterrupt
    assert len(store.get("u3", profiles.texts).time)
    with writer.writing():
        assert writer.drop(["u3", "nobody"]) == 1
    with pytest.raises(DataError):
        store.get("u3", profiles.texts)


def test_who_has_other_events(tmp_path):
    profiles = random_profiles(40)
    filled(tmp_path, profiles, 1)
    kept = ProfileShard(shard_path(tmp_path, 0))
    assert kept.differing(profiles) == []
    other = random_profiles(40, seed=1)
    assert set(kept.differing(other)) == {f"u{n}" for n in range(1, 40)}


def test_what_was_dropped_is_not_in_the_file_any_more(tmp_path):
    profiles = random_profiles(400)
    filled(tmp_path, profiles, 1)
    kept = ProfileShard(shard_path(tmp_path, 0))
    events = kept.events("u77").tobytes()
    kept.scrub()
    assert events in shard_path(tmp_path, 0).read_bytes()
    kept.drop(["u77"])
    kept.scrub()
    left = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert events[:42] not in left
    assert b"u77" not in left
