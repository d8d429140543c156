"""A batch of profiles as tensors: the numbers beside the texts, and where each text goes in the prefix.

An event token stands for a *distinct* text of a user, with all its occurrences in the window: twelve logins are one
token that says twelve, not twelve tokens that push everything else out.

Shapes: B users, M modalities, E events of all users one after another, U distinct texts of the batch, R of
the users (a user's distinct texts, of all users one after another), F features of an event, C of a (user, modality), S
time scales.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qanchor.events.profiles import DAY, Profiles

EVENT_FEATURES = 16
COUNT_FEATURES = 6
IDLE_DAYS = np.array([1, 2, 4, 8, 16, 32, 64])
"""Upper edges of the idle-since buckets; one more bucket lies beyond them, and one is for users without events."""
IDLE_BUCKETS = len(IDLE_DAYS) + 2
DECAY_DAYS = (3.0, 14.0, 60.0, float("inf"))
"""Time scales at which a text's occurrences are counted; at the last one all count alike."""
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
    entry_owner_R: Tensor
    entry_modality_R: Tensor
    entry_text_R: Tensor
    """[R] index into `text_U`."""
    entry_worth_RS: Tensor
    """How often the text occurs, each occurrence decayed by its gap at S time scales (`DECAY_DAYS`)."""
    entry_slot_R: Tensor
    """Place of the text's token among its user's event tokens; -1 for texts beyond the K_m most recently seen."""
    count_BMC: Tensor
    """How much there is of each modality; all zero where it is absent."""
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
    """[N] prefix tokens of each profile: the user's, the modalities', and one for each text that is kept."""
    texts_NM = distinct_texts(profiles)
    tokens: npt.NDArray[np.int64] = 1 + texts_NM.shape[1] + np.minimum(texts_NM, kept).sum(1)
    return tokens


def distinct_texts(profiles: Profiles) -> npt.NDArray[np.int64]:
    """[N, M] distinct texts of each modality in each profile."""
    kinds, table = len(profiles.modalities), max(1, len(profiles.texts))
    cell = profiles.owner * kinds + profiles.modality
    cell_of_text = np.unique(cell * table + profiles.text) // table
    return np.bincount(cell_of_text, minlength=len(profiles) * kinds).reshape(-1, kinds)


def collate(
    profiles: Profiles, rows: npt.NDArray[np.integer], kept: npt.NDArray[np.int64], columns: int | None = None
) -> Batch:
    """The profiles of `rows` as one batch.

    Args:
        kept: [M] K_m, the number of event tokens of each modality.
        columns: of each prefix, padding included; left out, as many as the longest needs.
    """
    part = profiles.take(rows)
    owner, modality, time = part.owner, part.modality.astype(np.int64), part.time
    size, kinds = len(part), len(part.modalities)
    newest = np.full(size, np.iinfo(np.int64).min)
    newest[owner] = time  # a user's events are in time order, and the last one written stays
    gap = (newest[owner] - time) / DAY
    texts, text = np.unique(part.text, return_inverse=True)
    value = _signed_log(np.nan_to_num(part.value))
    pairs, entry = np.unique(owner * len(part.texts) + part.text, return_inverse=True)
    entry_owner, entry_text = np.divmod(pairs, max(1, len(part.texts)))
    entry_modality, entry_gap = np.zeros(len(pairs), np.int64), np.full(len(pairs), np.inf)
    entry_modality[entry] = modality
    entry_gap[entry] = gap
    worth = [np.bincount(entry, np.exp(-gap / days), len(pairs)) for days in DECAY_DAYS]
    slot = _slots(entry_owner, entry_modality, entry_gap, kept)
    return Batch(
        text_U=torch.from_numpy(texts.astype(np.int64)),
        text_E=torch.from_numpy(text.astype(np.int64)),
        owner_E=torch.from_numpy(owner),
        modality_E=torch.from_numpy(modality),
        feature_EF=torch.from_numpy(_event_features(time, gap, value, np.isfinite(part.value))),
        entry_E=torch.from_numpy(entry.astype(np.int64)),
        entry_owner_R=torch.from_numpy(entry_owner),
        entry_modality_R=torch.from_numpy(entry_modality),
        entry_text_R=torch.from_numpy(np.searchsorted(texts, entry_text)),
        entry_worth_RS=torch.from_numpy(np.stack(worth, 1).astype(np.float32)),
        entry_slot_R=torch.from_numpy(slot),
        count_BMC=torch.from_numpy(_count_features(owner * kinds + modality, size * kinds, time, gap, value)).view(
            size, kinds, COUNT_FEATURES
        ),
        idle_B=torch.from_numpy(_idle_bucket(part.as_of, newest, part.counts > 0)),
        slots=int(slot.max(initial=-1)) + 1 if columns is None else columns - 1 - kinds,
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


def _slots(
    owner: npt.NDArray[np.int64],
    modality: npt.NDArray[np.int64],
    gap: npt.NDArray[np.float64],
    kept: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """[R] token place of each text: by modality, longest ago first; -1 where K_m others were seen since."""
    if not len(owner):
        return np.zeros(0, np.int64)
    order = np.lexsort((np.arange(len(owner)), -gap, modality, owner))
    run = owner[order] * (int(modality.max()) + 1) + modality[order]
    stop = np.searchsorted(run, run, side="right")
    keep = stop - np.arange(len(run)) <= kept[modality[order]]
    before: npt.NDArray[np.int64] = np.cumsum(keep) - keep
    first = np.searchsorted(owner[order], owner[order], side="left")
    slot = np.empty(len(owner), np.int64)
    slot[order] = np.where(keep, before - before[first], -1)
    return slot


def _count_features(
    cell: npt.NDArray[np.int64],
    cells: int,
    time: npt.NDArray[np.int64],
    gap: npt.NDArray[np.float64],
    value: npt.NDArray[np.float64],
) -> npt.NDArray[np.float32]:
    """[B * M, C] log counts in recent stretches and the whole window, log active days, signed log of summed values."""
    counts = [np.bincount(cell[gap < days], minlength=cells) for days in COUNT_DAYS]
    counts.append(np.bincount(cell, minlength=cells))
    day = time // DAY - time.min(initial=0) // DAY
    span = int(day.max(initial=0)) + 1
    cell_days = np.unique(cell * span + day) // span
    counts.append(np.bincount(cell_days, minlength=cells))
    sums = np.bincount(cell, weights=np.sign(value) * np.expm1(np.abs(value)), minlength=cells)
    return np.stack([*(np.log1p(c) for c in counts), _signed_log(sums)], 1).astype(np.float32)


def _idle_bucket(
    as_of: npt.NDArray[np.int64], newest: npt.NDArray[np.int64], active: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    days = (as_of - np.where(active, newest, as_of)) / DAY
    return np.where(active, np.searchsorted(IDLE_DAYS, days, side="right"), IDLE_BUCKETS - 1)


def _signed_log(x: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    exact = x.astype(np.float64)
    return np.copysign(np.log1p(np.abs(exact)), exact)
