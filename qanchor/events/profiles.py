"""Profiles: many users' events in one window each, still ids, no vectors (D1).

Shapes: N profiles (one user at one as_of), E events of all of them one after another, T distinct texts.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl

DAY = 86_400
"""Seconds of a day; times are whole seconds since 1970-01-01 UTC."""
CODES = 1_024
"""Numbers that categories are known by: hashes of their names, so that a category never seen has one, too."""


@dataclass(frozen=True)
class Texts:
    """The text table: every distinct (modality, category, text) of a store, sorted by its 64-bit id.

    Profiles point into it by row number, which is valid for this table only; the ids are valid for ever.
    """

    ids: npt.NDArray[np.uint64]
    modality: list[str]
    category: list[str]
    text: list[str]

    def __len__(self) -> int:
        return len(self.text)

    @cached_property
    def described(self) -> list[str]:
        """What the text encoder reads: the text, and its category where the text does not say it."""
        return [
            text if category == modality or category.lower() in text.lower() else f"{text} ({category})"
            for modality, category, text in zip(self.modality, self.category, self.text, strict=True)
        ]

    @cached_property
    def kind(self) -> npt.NDArray[np.int64]:
        """[T] categories as numbers, which sort as their names do whatever else is in the table."""
        return pl.Series(self.category, dtype=pl.String).rank("dense").cast(pl.Int64).to_numpy()

    @cached_property
    def code(self) -> npt.NDArray[np.int64]:
        """[T] the category of each text as a number below `CODES`, which is the same in any table."""
        pairs = list(zip(self.modality, self.category, strict=True))
        known = {pair: zlib.crc32("/".join(pair).encode()) % CODES for pair in set(pairs)}
        return np.array([known[pair] for pair in pairs], np.int64)


@dataclass(frozen=True)
class Profiles:
    """N users, each at one as_of, with the events of one window in canonical order.

    The canonical order within a user is (time, modality, text id, value), so that equal logs give equal arrays.
    The same class holds lookback windows (events strictly before `as_of`) and prediction windows (at or after it).
    """

    user_ids: npt.NDArray[np.object_]
    """[N] str."""
    as_of: npt.NDArray[np.int64]
    """[N] seconds."""
    offsets: npt.NDArray[np.int64]
    """[N + 1]: profile n owns events offsets[n]:offsets[n + 1]."""
    time: npt.NDArray[np.int64]
    """[E] seconds."""
    modality: npt.NDArray[np.uint8]
    """[E] index into `modalities`."""
    text: npt.NDArray[np.int32]
    """[E] row of `texts`."""
    value: npt.NDArray[np.float32]
    """[E] NaN where the event has none."""
    modalities: tuple[str, ...]
    texts: Texts

    def __len__(self) -> int:
        return len(self.user_ids)

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """[N] events of each profile."""
        return np.diff(self.offsets)

    @property
    def owner(self) -> npt.NDArray[np.int64]:
        """[E] the profile that each event belongs to."""
        return np.repeat(np.arange(len(self)), self.counts)

    def take(self, rows: npt.NDArray[np.integer]) -> Profiles:
        """The profiles of `rows`, in that order (rows may repeat)."""
        counts = self.counts[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        events = np.repeat(self.offsets[rows] - offsets[:-1], counts) + np.arange(offsets[-1])
        return Profiles(
            self.user_ids[rows],
            self.as_of[rows],
            offsets,
            self.time[events],
            self.modality[events],
            self.text[events],
            self.value[events],
            self.modalities,
            self.texts,
        )

    def keys(self) -> pl.DataFrame:
        """[N] user_id, as_of (Datetime, UTC seconds as in requests and label files)."""
        as_of = pl.Series("as_of", self.as_of * 1_000_000).cast(pl.Datetime("us"))
        return pl.DataFrame(
            {"user_id": self.user_ids.tolist(), "as_of": as_of}, schema_overrides={"user_id": pl.String}
        )
