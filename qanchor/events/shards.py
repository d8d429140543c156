"""Which shard a user lives in: a stable hash of the id, the same on every machine and in every version."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

_PRIME = np.uint64(0x9E3779B97F4A7C15)


def shard_of(user_ids: pl.Series, shards: int) -> npt.NDArray[np.int64]:
    """[N] in 0..shards - 1. Changing this function orphans every store: raise `partitions.FORMAT` with it."""
    return (_hash64(user_ids) % np.uint64(shards)).astype(np.int64)


def _hash64(words: pl.Series) -> npt.NDArray[np.uint64]:
    """[N] eight bytes of every word at a time: ten times faster than hashing word by word."""
    array = words.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.large_string())
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    starts, lengths = ends[:-1], np.diff(ends)
    padded = (data.to_pybytes() if data is not None else b"") + bytes(16)
    # the eight bytes that start at each byte, little-endian wherever we run
    eight = np.ndarray(len(padded) - 8, "<u8", padded, strides=(1,))
    result = lengths.astype(np.uint64) * _PRIME
    for block in range(0, int(lengths.max(initial=0)), 8):
        left = np.clip(lengths - block, 0, 8).astype(np.uint64)
        live = left > 0
        at = np.where(live, starts + block, 0)
        # shifting by 64 bits is undefined: a full word keeps all its bits, a shorter one its first `left` bytes
        kept = eight[at] & np.where(left == 8, ~np.uint64(0), (np.uint64(1) << (left % 8 * 8)) - np.uint64(1))
        mixed = (result ^ kept) * _PRIME
        result = np.where(live, mixed ^ (mixed >> np.uint64(32)), result)
    # without this, regular ids (2088...0002, 2088...0004) leave half of 64 shards empty
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        result = (result ^ (result >> np.uint64(shift))) * np.uint64(factor)
    return result ^ (result >> np.uint64(31))
