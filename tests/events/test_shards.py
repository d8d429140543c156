from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from qanchor.events.shards import shard_of

PRIME, LOW = 0x9E3779B97F4A7C15, 2**64 - 1


def slow_hash(word: str) -> int:
    data = word.encode()
    result = len(data) * PRIME & LOW
    for start in range(0, len(data), 8):
        mixed = (result ^ int.from_bytes(data[start : start + 8], "little")) * PRIME & LOW
        result = mixed ^ mixed >> 32
    result = (result ^ result >> 30) * 0xBF58476D1CE4E5B9 & LOW
    result = (result ^ result >> 27) * 0x94D049BB133111EB & LOW
    return result ^ result >> 31


@given(st.lists(st.text(max_size=30)), st.integers(1, 4096))
def test_equals_hashing_word_by_word(words: list[str], shards: int) -> None:
    assert shard_of(pl.Series(words, dtype=pl.String), shards).tolist() == [slow_hash(word) % shards for word in words]


def test_slices_and_spread() -> None:
    ids = pl.Series([f"2088{n:012d}" for n in range(0, 40_000, 2)])
    assert (shard_of(ids, 7)[500:900] == shard_of(ids[500:900], 7)).all()
    for shards in (2, 4, 7, 64):
        counts = np.bincount(shard_of(ids, shards), minlength=shards)
        assert counts.max() < 1.35 * len(ids) / shards
