"""A batch of profiles as tensors: the numbers beside the texts, and where each text goes in the prefix.

An event token stands for a *distinct* text of a user, with all its occurrences in the window: twelve logins are one
token that says twelve, not twelve tokens that push everything else out. What does not fit is not forgotten: beyond a
modality's K_m most recently seen texts, those of one category share a token, which stands before them.

Shapes: B users, M modalities, E events of all users one after another, U distinct texts of the batch, R of the users (a
user's distinct texts, of all users one after another), T event tokens of all users, G (user, category) pairs, F
features of an event, C of a (user, modality) or (user, category), X of a user's whole window, W of its tally, S time
scales.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qanchor.events.profiles import CODES, DAY, Profiles
from qanchor.model.tally import (
    CATEGORY_PLACES,
    COUNT_PLACES,
    HABIT_PLACES,
    MODALITY_PLACES,
    amounts,
    habits,
    tally,
)
from qanchor.model.vocabulary import WORDS, Mentions

EVENT_FEATURES = 16
COUNT_FEATURES, VALUE_FEATURES = 8, 2
AGE_DAYS = np.array([1, 2, 4, 8, 16, 32, 64])
"""Ages at `as_of` at which an event, and with the newest one the user's idle time, goes to the next bucket. Nothing
that a model reads depends on `as_of` in any other way: a user changes when one of its events reaches an edge (D4)."""
IDLE_BUCKETS = len(AGE_DAYS) + 2
"""One bucket lies beyond all edges, and one is for users without events."""
DECAY_DAYS = (3.0, 14.0, 60.0, float("inf"))
"""Time scales at which a text's occurrences are counted; at the last one all count alike."""
RHYTHM_FEATURES = 3
TOTAL_FEATURES = COUNT_FEATURES + len(DECAY_DAYS) + RHYTHM_FEATURES
AMOUNTS = (COUNT_FEATURES + VALUE_FEATURES) * (1 + MODALITY_PLACES + CATEGORY_PLACES)
PACE = TOTAL_FEATURES - COUNT_FEATURES + 2 * IDLE_BUCKETS
STEPS = COUNT_PLACES + HABIT_PLACES
TALLY = WORDS + AMOUNTS + PACE + STEPS + WORDS
"""Numbers of a user's tally: words lately, amounts; decayed counts, rhythm and idle time; counts and habits step by
step, words."""
FOR_FORESTS, FOR_LINES = slice(0, WORDS + AMOUNTS + PACE), slice(WORDS + AMOUNTS, TALLY)
"""What of it each kind of readout reads."""
TALLY_DAYS = (8, 16, 32)
"""Stretches before `as_of` in which the tally counts: edges of age, since it changes with these alone."""
WORD_DAYS = 10.0
"""Age at which an event counts half for the words that forests look at."""
COUNT_DAYS = (3, 10, 30)
"""Recent stretches, before the user's newest event, in which a modality's events are counted (the whole window too)."""


@dataclass(frozen=True)
class Batch:
    """B profiles, ready for the hierarchy."""

    text_U: Tensor
    """Rows of the text table that occur in the batch."""
    text_E: Tensor
    """[E] index into `text_U`."""
    owner_E: Tensor
    modality_E: Tensor
    feature_EF: Tensor
    """Value and calendar features, and the gap to the user's newest event (D4): never the gap to `as_of`."""
    entry_E: Tensor
    """[E] which of the R (user, text) pairs the event belongs to."""
    entry_text_R: Tensor
    """[R] index into `text_U`."""
    entry_token_R: Tensor
    """[R] the text's token, its own or its category's; -1 where its modality has none (K_m = 0)."""
    entry_worth_RS: Tensor
    """How often the text occurs, each occurrence decayed by its gap at S time scales (`DECAY_DAYS`)."""
    token_owner_T: Tensor
    token_slot_T: Tensor
    """Place of the token among its user's event tokens."""
    count_BMC: Tensor
    """How much there is of each modality; all zero where it is absent."""
    total_BX: Tensor
    """The same of all modalities together, log counts decayed at S time scales, and the user's rhythm."""
    kind_owner_G: Tensor
    kind_code_G: Tensor
    """Which category, below `CODES`."""
    kind_count_GC: Tensor
    """How much there is of each category that a user has."""
    tally_BW: Tensor
    """The same by age at `as_of`, as amounts (values' mean and newest among them) and step by step, and the habits
    (tally.py); the words; the decayed counts, the rhythm, and the idle time."""
    idle_B: Tensor
    """Bucket of the time between the newest event and `as_of`."""
    slots: int
    """Event tokens that each user has room for: at least those of the longest."""

    def __len__(self) -> int:
        return len(self.idle_B)

    def to(self, device: torch.device) -> Batch:
        tensors = [field.name for field in fields(self) if field.name != "slots"]
        return Batch(**{name: getattr(self, name).to(device) for name in tensors}, slots=self.slots)


def prefix_tokens(profiles: Profiles, kept: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[N] prefix tokens of each profile: the user's, the modalities', and its event tokens."""
    tokens: npt.NDArray[np.int64] = 1 + len(profiles.modalities) + event_tokens(profiles, kept).sum(1)
    return tokens


def event_tokens(profiles: Profiles, kept: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[N, M] event tokens of each modality in each profile."""
    pairs, kinds = Pairs.of(profiles), len(profiles.modalities)
    slot = _slots(pairs, profiles.texts.kind, kept)
    cell = pairs.owner * kinds + pairs.modality
    most = int(slot.max(initial=0)) + 1
    tokens = np.unique(cell[slot >= 0] * most + slot[slot >= 0]) // most
    return np.bincount(tokens, minlength=len(profiles) * kinds).reshape(-1, kinds)


@dataclass(frozen=True)
class Pairs:
    """The distinct texts of each user, as numpy arrays over R pairs."""

    of_event: npt.NDArray[np.int64]
    """[E] which pair an event belongs to."""
    owner: npt.NDArray[np.int64]
    text: npt.NDArray[np.int64]
    """Rows of the text table."""
    modality: npt.NDArray[np.int64]
    gap: npt.NDArray[np.float64]
    """Days from the text's last occurrence to the user's newest event."""
    times: npt.NDArray[np.int64]
    """Occurrences."""

    @classmethod
    def of(cls, profiles: Profiles) -> Pairs:
        owner = profiles.owner
        pairs, of_event = np.unique(owner * max(1, len(profiles.texts)) + profiles.text, return_inverse=True)
        of_event = of_event.astype(np.int64)
        pair_owner, text = np.divmod(pairs, max(1, len(profiles.texts)))
        modality, gap = np.zeros(len(pairs), np.int64), np.zeros(len(pairs))
        # a user's events are in time order, and the last one written stays
        modality[of_event] = profiles.modality
        gap[of_event] = gaps(profiles)
        return cls(of_event, pair_owner, text, modality, gap, np.bincount(of_event, minlength=len(pairs)))


def gaps(profiles: Profiles) -> npt.NDArray[np.float64]:
    """[E] days from each event to its user's newest one."""
    last = profiles.offsets[1:] - 1
    return (profiles.time[last[profiles.owner]] - profiles.time) / DAY


def collate(
    profiles: Profiles,
    rows: npt.NDArray[np.integer],
    kept: npt.NDArray[np.int64],
    columns: int | None = None,
    mentions: Mentions | None = None,
) -> Batch:
    """The profiles of `rows` as one batch.

    Args:
        kept: [M] K_m, the texts of each modality that have a token of their own, and the most tokens that others share.
        columns: of each prefix, padding included; left out, as many as the longest needs.
        mentions: of the words that are counted, in the texts of the profiles' table; left out, none is.
    """
    part = profiles.take(rows)
    owner, modality, time = part.owner, part.modality.astype(np.int64), part.time
    size, kinds = len(part), len(part.modalities)
    gap, pairs = gaps(part), Pairs.of(part)
    texts, text = np.unique(part.text, return_inverse=True)
    value = _signed_log(np.nan_to_num(part.value))
    worth = [np.bincount(pairs.of_event, np.exp(-gap / days), len(pairs.owner)) for days in DECAY_DAYS]
    slot = _slots(pairs, part.texts.kind, kept)
    most = int(slot.max(initial=-1)) + 1
    places, token = np.unique(np.where(slot < 0, -1, pairs.owner * most + slot), return_inverse=True)
    token, places = token - (len(places) and places[0] < 0), places[places >= 0]
    token_owner, token_slot = np.divmod(places, max(1, most))
    cell, told = owner * kinds + modality, (time, gap, value, part.text)
    decayed = np.stack([np.bincount(owner, np.exp(-gap / days), size) for days in DECAY_DAYS], 1)
    newest = np.zeros(size, np.int64)
    newest[owner] = time
    idle = _idle_bucket(part.as_of, newest, part.counts > 0)
    totals = [_count_features(owner, size, *told), np.log1p(decayed), _rhythm(part, gap, idle)]
    kinds_of_users, kind = np.unique(owner * CODES + part.texts.code[part.text], return_inverse=True)
    kind_owner, kind_code = np.divmod(kinds_of_users, CODES)
    counts = [totals[0], _count_features(cell, size * kinds, *told), _count_features(kind, len(kind_code), *told)]
    age = np.array([0, *AGE_DAYS])[age_buckets((part.as_of[owner] - time) / DAY)].astype(np.float64)
    groups = (owner, size), (cell, size * kinds), (kind, len(kind_code))
    aged = [_count_features(cells, many, time, age, value, part.text, TALLY_DAYS) for cells, many in groups]
    sized = [np.concatenate([n, _value_features(*of, part.value)], 1) for n, of in zip(aged, groups, strict=True)]
    user, own = np.arange(size), np.array([CODES + 1 + zlib.crc32(name.encode()) % CODES for name in part.modalities])
    owners, codes = [user, user.repeat(kinds), kind_owner], [np.full(size, CODES), np.tile(own, size), kind_code]
    since = np.eye(IDLE_BUCKETS)[idle]
    lately = np.bincount(pairs.of_event, 0.5 ** (age / WORD_DAYS), len(pairs.owner)).astype(np.float64)
    said = mentions or Mentions.none(part.texts)
    tallied: list[npt.NDArray[Any]] = [
        said.counted(size, pairs.owner, pairs.text, lately),
        sized[0],
        amounts(size, MODALITY_PLACES, owners[1], codes[1], sized[1]),
        amounts(size, CATEGORY_PLACES, owners[2], codes[2], sized[2]),
        *totals[1:],
        since,
        since.cumsum(1),
        tally(size, *map(np.concatenate, (owners, codes, aged))),
        habits(size, owner, own[modality], time, gap, part.value.astype(np.float64)),
        said.counted(size, pairs.owner, pairs.text, pairs.times.astype(np.float64)),
    ]
    return Batch(
        text_U=torch.from_numpy(texts.astype(np.int64)),
        text_E=torch.from_numpy(text.astype(np.int64)),
        owner_E=torch.from_numpy(owner),
        modality_E=torch.from_numpy(modality),
        feature_EF=torch.from_numpy(_event_features(time, gap, value, np.isfinite(part.value))),
        entry_E=torch.from_numpy(pairs.of_event),
        entry_text_R=torch.from_numpy(np.searchsorted(texts, pairs.text)),
        entry_token_R=torch.from_numpy(token.astype(np.int64)),
        entry_worth_RS=torch.from_numpy(np.stack(worth, 1).astype(np.float32)),
        token_owner_T=torch.from_numpy(token_owner),
        token_slot_T=torch.from_numpy(token_slot),
        count_BMC=torch.from_numpy(counts[1]).view(size, kinds, COUNT_FEATURES),
        total_BX=torch.from_numpy(np.concatenate(totals, 1, dtype=np.float32)),
        kind_owner_G=torch.from_numpy(kind_owner),
        kind_code_G=torch.from_numpy(kind_code),
        kind_count_GC=torch.from_numpy(counts[2]),
        tally_BW=torch.from_numpy(np.concatenate(tallied, 1, dtype=np.float32)),
        idle_B=torch.from_numpy(idle),
        slots=most if columns is None else columns - 1 - kinds,
    )


def _event_features(
    time: npt.NDArray[np.int64],
    gap: npt.NDArray[np.float64],
    value: npt.NDArray[np.float64],
    has: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float32]:
    """[E, F] hour, weekday and day of the month as angles, the gap at several scales, and the value."""
    hour = (time % DAY) / DAY
    day = time // DAY
    weekday = (day + 3) % 7  # 1970-01-01 was a Thursday
    month_day = (day.astype("datetime64[D]") - day.astype("datetime64[D]").astype("datetime64[M]")).astype(np.int64)
    angles = 2 * np.pi * np.stack([hour, 2 * hour, weekday / 7, 2 * weekday / 7, month_day / 31], 1)
    gaps = np.stack([np.exp(-gap / 3), np.exp(-gap / 14), np.exp(-gap / 60)], 1)
    rest = np.stack([weekday >= 5, value, has], 1)
    return np.concatenate([np.sin(angles), np.cos(angles), gaps, rest], 1).astype(np.float32)


def _slots(pairs: Pairs, kind_of_text: npt.NDArray[np.int64], kept: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[R] token place of each text among its user's: by modality, first what categories share, the most frequent
    first, then the texts of their own, longest ago first; -1 where K_m is 0.

    At most K_m tokens are shared: the last one by all further categories.
    """
    if not len(pairs.owner):
        return np.zeros(0, np.int64)
    rows = np.arange(len(pairs.owner))
    run = pairs.owner * (int(pairs.modality.max()) + 1) + pairs.modality
    order = np.lexsort((rows, -pairs.gap, run))
    place = np.empty(len(rows), np.int64)
    place[order] = np.searchsorted(run[order], run[order], side="right") - rows  # 1 for the latest
    own = place <= kept[pairs.modality]
    rank = np.where(own, np.iinfo(np.int64).max - place, 0)
    rest = np.flatnonzero(~own)
    rank[rest] = np.minimum(
        _by_frequency(run[rest], kind_of_text[pairs.text[rest]], pairs.times[rest]), kept[pairs.modality[rest]] - 1
    )
    shown = np.flatnonzero(kept[pairs.modality] > 0)
    order = shown[np.lexsort((rank[shown], run[shown]))]
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(run[order]) != 0) | (np.diff(rank[order]) != 0)
    number = np.cumsum(new) - 1
    first = np.searchsorted(pairs.owner[order], pairs.owner[order], side="left")
    slot = np.full(len(rows), -1)
    slot[order] = number - number[first]
    return slot


def _by_frequency(
    run: npt.NDArray[np.int64], kind: npt.NDArray[np.int64], times: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """[R] the place of each row's category in its run: 0 for the one with most events."""
    cells, cell = np.unique(np.stack([run, kind]), axis=1, return_inverse=True)
    cell = cell.ravel()
    often = np.bincount(cell, times, cells.shape[1])
    order = np.lexsort((cells[1], -often, cells[0]))
    first = np.searchsorted(cells[0][order], cells[0][order], side="left")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - first
    return rank[cell]


def _count_features(
    cell: npt.NDArray[np.int64],
    cells: int,
    time: npt.NDArray[np.int64],
    gap: npt.NDArray[np.float64],
    value: npt.NDArray[np.float64],
    text: npt.NDArray[Any],
    days: Sequence[int] = COUNT_DAYS,
) -> npt.NDArray[np.float32]:
    """[cells, C] log counts in recent stretches and the whole window, log active days and distinct texts, how lately
    the newest event was (1 at the user's own newest, 0 where there is none), signed log of summed values."""
    counts = [np.bincount(cell[gap < recent], minlength=cells) for recent in days]
    counts.append(np.bincount(cell, minlength=cells))
    day = time // DAY - time.min(initial=0) // DAY
    span = int(day.max(initial=0)) + 1
    cell_days = np.unique(cell * span + day) // span
    counts.append(np.bincount(cell_days, minlength=cells))
    table = int(text.max(initial=0)) + 1
    counts.append(np.bincount(np.unique(cell * table + text) // table, minlength=cells))
    newest = np.full(cells, np.inf)
    newest[cell] = gap  # in time order, and the last one written stays
    sums = np.bincount(cell, weights=np.sign(value) * np.expm1(np.abs(value)), minlength=cells)
    return np.stack([*(np.log1p(c) for c in counts), 1 / (1 + newest), _signed_log(sums)], 1).astype(np.float32)


def _value_features(cell: npt.NDArray[np.int64], cells: int, value: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """[cells, 2] signed logs of the mean value and of the newest one, of the events that have one; 0 where none has."""
    has = np.isfinite(value)
    cell, exact = cell[has], value[has].astype(np.float64)
    total, number = np.bincount(cell, exact, cells), np.bincount(cell, minlength=cells)
    newest = np.zeros(cells)
    newest[cell] = exact  # in time order, and the last one written stays
    return _signed_log(np.stack([total / np.maximum(number, 1), newest], 1)).astype(np.float32)


def _rhythm(profiles: Profiles, gap: npt.NDArray[np.float64], idle: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """[B, 3] on a log scale: how long idle, how long active before that, and idle against the usual pause: a month of
    silence says little of who comes once a quarter. All zero where there are no events."""
    span, active = np.zeros(len(idle)), profiles.counts > 0
    span[active] = gap[profiles.offsets[:-1][active]]  # a user's first event
    pause = np.log1p(span / np.maximum(1, profiles.counts))
    return np.stack([idle, np.log1p(span), idle * np.log(2) - pause], 1) * active[:, None]


def _idle_bucket(
    as_of: npt.NDArray[np.int64], newest: npt.NDArray[np.int64], active: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    days = (as_of - np.where(active, newest, as_of)) / DAY
    return np.where(active, age_buckets(days), IDLE_BUCKETS - 1)


def age_buckets(days: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """How many edges of age so many days have reached."""
    return np.searchsorted(AGE_DAYS, days, side="right")


def _signed_log(x: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    exact = x.astype(np.float64)
    return np.copysign(np.log1p(np.abs(exact)), exact)
