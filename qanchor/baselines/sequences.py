"""Users as sequences of events: what every sequence baseline reads.

Shapes: B users, L places of the longest of them (events in the order of time, padding on the right), U distinct texts
of a batch, E events of profiles, F features of an event, M modalities.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qanchor.baselines.counts import categories
from qanchor.events.profiles import DAY, Profiles
from qanchor.model.backbone import device

LENGTH = 96
"""A sequence is a user's so many newest events."""
FEATURES = 9
GAP = 0
"""Which feature is the time since the event before."""
VALUE = [6, 7]
"""And which are the event's value, and whether it has one: all others tell the time."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sequences:
    """B users' events, ready for a network."""

    text_U: Tensor
    """Rows of the text table that occur in the batch: on the CPU, where text tables are indexed."""
    text_BL: Tensor
    """Index into `text_U`."""
    modality_BL: Tensor
    feature_BLF: Tensor
    real_BL: Tensor
    """True at events, False at padding."""
    count_BM: Tensor
    """log(1 + events) of each modality, those beyond `LENGTH` too."""
    event_BL: Tensor
    """The profiles' event at each place, 0 at padding."""

    def __len__(self) -> int:
        return len(self.real_BL)

    def to(self, device: torch.device) -> Sequences:
        names = [field.name for field in fields(self) if field.name != "text_U"]
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def collate(
    profiles: Profiles, rows: npt.NDArray[np.integer], start: Ints | None = None, end: Ints | None = None
) -> Sequences:
    """The events of `rows` with start <= time < end (both [B], seconds; left out, all before `as_of`), on this
    process's device."""
    counts = profiles.counts[rows]
    owner = np.repeat(np.arange(len(rows)), counts)
    first = np.cumsum(counts) - counts
    event = np.arange(len(owner)) - np.repeat(first, counts) + np.repeat(profiles.offsets[rows], counts)
    end = profiles.as_of[rows] if end is None else end
    time = profiles.time[event]
    inside = time < end[owner] if start is None else (time < end[owner]) & (time >= start[owner])
    event, owner, time = event[inside], owner[inside], time[inside]
    kinds = len(profiles.modalities)
    count_BM = np.bincount(owner * kinds + profiles.modality[event], minlength=len(rows) * kinds).reshape(-1, kinds)

    before = np.concatenate([time[:1], time[:-1]])
    gap = np.where(owner == np.concatenate([owner[:1], owner[:-1]]), time - before, 0)
    number = np.bincount(owner, minlength=len(rows))
    from_end = np.cumsum(number)[owner] - 1 - np.arange(len(owner))
    kept = from_end < LENGTH
    event, owner, time, gap, from_end = (x[kept] for x in (event, owner, time, gap, from_end))
    length_B = np.minimum(number, LENGTH)
    place = length_B[owner] - 1 - from_end
    shape = (len(rows), max(1, int(length_B.max(initial=0))))

    def laid(values: npt.NDArray[np.generic]) -> Tensor:
        grid = np.zeros(shape + values.shape[1:], values.dtype)
        grid[owner, place] = values
        return torch.from_numpy(grid)

    texts, text = np.unique(profiles.text[event], return_inverse=True)
    return Sequences(
        text_U=torch.from_numpy(texts.astype(np.int64)),
        text_BL=laid(text.astype(np.int64)),
        modality_BL=laid(profiles.modality[event].astype(np.int64)),
        feature_BLF=laid(_features(time, gap, (end[owner] - time) / DAY, profiles.value[event])),
        real_BL=laid(np.ones(len(event), bool)),
        count_BM=torch.from_numpy(np.log1p(count_BM).astype(np.float32)),
        event_BL=laid(event.astype(np.int64)),
    ).to(device())


def _features(
    time: Ints, gap: Ints, age: npt.NDArray[np.float64], value: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """[., F] log hours since the event before, log days to the end, hour and weekday as angles, the value."""
    hour, weekday = time % DAY / DAY, (time // DAY + 3) % 7 / 7
    angles = 2 * np.pi * np.stack([hour, weekday], 1)
    known = np.nan_to_num(value.astype(np.float64))
    rest = [np.log1p(age), np.copysign(np.log1p(np.abs(known)), known), np.isfinite(value), age < 7]
    columns = [np.log1p(gap / 3600)[:, None], np.sin(angles), np.cos(angles), np.stack(rest, 1)]
    return np.concatenate(columns, 1).astype(np.float32)


def joined(past: Profiles, future: Profiles) -> Profiles:
    """Each user's lookback and prediction window as one, in the order of time. Rows of both are the same keys."""
    owner = np.concatenate([past.owner, future.owner])
    order = np.argsort(owner, kind="stable")

    time, modality, text, value = (
        np.concatenate([getattr(past, name), getattr(future, name)])[order]
        for name in ("time", "modality", "text", "value")
    )
    offsets = past.offsets + future.offsets
    return Profiles(past.user_ids, past.as_of, offsets, time, modality, text, value, past.modalities, past.texts)


class Kinds:
    """What sequence baselines predict of an event: its category, where enough training users have it."""

    def __init__(self, past: Profiles) -> None:
        """The categories of training profiles; a modality of one category is one kind, rare categories are another."""
        found = categories(past)
        plain = [m for m in past.modalities if m not in {modality for modality, _ in found}]
        self.known = {pair: n for n, pair in enumerate([*found, *((m, None) for m in plain)])}

    def __len__(self) -> int:
        return len(self.known) + 1

    def of(self, profiles: Profiles) -> Ints:
        """[E] kind of every event; the last kind is what training never saw."""
        texts = zip(profiles.texts.modality, profiles.texts.category, strict=True)
        other = len(self.known)
        by_text = [self.known.get((m, c), self.known.get((m, None), other)) for m, c in texts]
        kinds: Ints = np.array(by_text, np.int64)[profiles.text]
        return kinds
