"""One user as of a moment: the profile of the last refresh, and the events that were appended since.

Shapes: E events of one user.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qanchor.errors import DataError
from qanchor.events.profiles import DAY, Profiles, Texts
from qanchor.model.batch import age_buckets

Events = npt.NDArray[np.void]
"""[E] of dtype EVENT."""
Word = tuple[str, str, str]
"""modality, category, text."""


@dataclass(frozen=True)
class Live:
    """What the model reads of one user."""

    user_id: str
    as_of: int
    """Seconds; every event lies before it (D3)."""
    events: Events
    """In canonical order."""

    @property
    def key(self) -> tuple[str, bytes]:
        """Changes when the prefix does, and only then (D4): with the events, or the bucket of one's age."""
        buckets = age_buckets((self.as_of - self.events["time"]) / DAY).astype(np.uint8)
        return self.user_id, hashlib.blake2b(self.events.tobytes() + buckets.tobytes(), digest_size=16).digest()


def moved_to(moment: int, kept: Events, appended: Events, lookback: npt.NDArray[np.int64]) -> Events:
    """Events of the windows that end at `moment`: [M] `lookback` seconds by modality; canonical order."""
    both = np.concatenate([kept, appended])
    inside = (both["time"] < moment) & (both["time"] >= moment - lookback[both["modality"]])
    both = both[inside]
    ordered: Events = both[np.lexsort((both["value"], both["text"], both["modality"], both["time"]))]
    return ordered


def joined(lives: Sequence[Live], modalities: tuple[str, ...], texts: Texts) -> Profiles:
    """Users as one `Profiles`; all their texts must be in `texts`."""
    events = np.concatenate([live.events for live in lives])
    return Profiles(
        np.array([live.user_id for live in lives], object),
        np.array([live.as_of for live in lives], np.int64),
        np.concatenate([[0], np.cumsum([len(live.events) for live in lives])]).astype(np.int64),
        events["time"].astype(np.int64),
        events["modality"].astype(np.uint8),
        np.searchsorted(texts.ids, events["text"]).astype(np.int32),
        events["value"].astype(np.float32),
        modalities,
        texts,
    )


def unknown(live: Live, texts: Texts) -> npt.NDArray[np.uint64]:
    """Ids of the user's texts that a table has not."""
    ids = np.unique(live.events["text"])
    place = np.searchsorted(texts.ids, ids)
    known = place < len(texts)
    known[known] = texts.ids[place[known]] == ids[known]
    return ids[~known]


def table_of(lives: Iterable[Live], texts: Texts, words: Mapping[int, Word]) -> Texts:
    """A small table of these users' texts only, from the store's and from what `words` adds by id.

    Raises:
        DataError: a text that neither has.
    """
    ids = np.unique(np.concatenate([live.events["text"] for live in lives]))
    place = np.searchsorted(texts.ids, ids)
    rows: list[Word] = []
    for id, at in zip(ids.tolist(), place.tolist(), strict=True):
        if at < len(texts) and int(texts.ids[at]) == id:
            rows.append((texts.modality[at], texts.category[at], texts.text[at]))
        elif id in words:
            rows.append(words[id])
        else:
            raise DataError("a text of this user is not in the store's table: ask again once the refresh is done")
    return Texts(ids, *(list(column) for column in zip(*rows, strict=True)))
