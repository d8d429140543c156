"""Hand-made features: what a data scientist would try first, and what every embedding has to beat.

Events are counted in groups: all of them, each modality, each category of it. Every group says how many events the last
7 days, the last 30 days and the whole lookback window hold, how long ago the last one was, and whether there was any;
sums of amounts and active days come on top; if asked for, the mean of amounts and the newest one, and how many events
say each of the words that tell users apart. Everything but the flags is on a log scale, as a linear model wants it.

Shapes: N profiles, E events, M modalities, G groups, F features.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from qanchor.errors import DataError
from qanchor.events.profiles import DAY, Profiles
from qanchor.model.vocabulary import Vocabulary

MIN_PROFILES = 5
"""A category that fewer training profiles hold is pooled with the other rare ones of its modality."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Counts:
    """Features by counting. `Counts().fit(training_profiles).embed(any_profiles)`."""

    names: list[str]
    """[F] what each feature says: `bill/food: events in 7 days`."""

    def __init__(self, values: bool = False, words: bool = False) -> None:
        """With `values` each group also tells the mean of its amounts, and the newest; with `words` those of texts are
        counted, too."""
        self.values, self.words = values, words

    def fit(self, past: Profiles, future: Profiles | None = None) -> Counts:
        """Choose the groups and the longest window by the training profiles; futures are not looked at.

        Raises:
            DataError: the profiles hold no event.
        """
        if not len(past.time):
            raise DataError(f"{len(past)} training profiles without a single event: nothing to count; check `windows`")
        self.modalities = past.modalities
        self.categories = categories(past)
        self.lookback = float(_age(past).max())
        self.windows = {f"{days} days": float(days) for days in (7, 30) if days < self.lookback} | {"all days": np.inf}
        event, group = self._members(past)
        self.vocabulary = Vocabulary.of(past) if self.words else Vocabulary()
        self.priced = set(group[~np.isnan(past.value[event])].tolist())
        self.names = [name for name, _ in self._features(past.take(np.arange(0)))]
        return self

    def embed(self, past: Profiles) -> npt.NDArray[np.float32]:
        """The features of N profiles, [N, F], all finite. A category that training never saw counts as a rare one.

        Raises:
            DataError: the profiles have other modalities than those of training.
        """
        if past.modalities != self.modalities:
            raise DataError(f"profiles of {past.modalities}, fitted on {self.modalities}: fit and embed one store")
        features = np.empty((len(past), len(self.names)), np.float32)
        for column, (_, values) in enumerate(self._features(past)):
            features[:, column] = values
        return features

    def _features(self, past: Profiles) -> Iterator[tuple[str, Floats]]:
        """Name and [N] values of each feature."""
        groups = ["all", *self.modalities, *(f"{m}/{c or 'rare ones'}" for m, c in self.categories)]
        broad = range(1 + len(self.modalities))
        event, group = self._members(past)
        cell = past.owner[event] * len(groups) + group
        shape = (len(past), len(groups))
        age = _age(past)[event]
        value = np.nan_to_num(past.value[event].astype(np.float64))
        last_of_day = _last_of_day(cell, past.time[event])

        def total(chosen: npt.NDArray[np.bool_], weight: Floats | None = None) -> Floats:
            """[N, G] chosen events of each profile and group, or the sum of their weights."""
            weight = None if weight is None else weight[chosen]
            return np.bincount(cell[chosen], weight, shape[0] * shape[1]).reshape(shape).astype(np.float64)

        for window, days in self.windows.items():
            recent = age <= days
            events, active, amount = total(recent), total(recent & last_of_day), total(recent, value)
            for g, name in enumerate(groups):
                yield f"{name}: events in {window}", np.log1p(events[:, g])
                if g in broad:
                    yield f"{name}: active days in {window}", np.log1p(active[:, g])
                if g in self.priced and g and (g in broad or days == np.inf):
                    yield f"{name}: amount in {window}", _signed_log(amount[:, g])

        if self.values:
            has = ~np.isnan(past.value[event])
            mean = total(has, value) / np.maximum(1, total(has))
            newest = np.zeros(shape[0] * shape[1])
            newest[cell[has]] = value[has]
            for g in sorted(self.priced - {0}):
                yield f"{groups[g]}: mean amount", _signed_log(mean[:, g])
                yield f"{groups[g]}: newest amount", _signed_log(newest.reshape(shape)[:, g])

        told, word = self.vocabulary.mentions(past.texts).of(past.text.astype(np.int64))
        for window, days in self.windows.items() if self.vocabulary.words else ():
            recent = _age(past)[told] <= days
            place = (past.owner[told] * len(self.vocabulary.words) + word)[recent]
            said = np.bincount(place, minlength=len(past) * len(self.vocabulary.words))
            said = said.reshape(len(past), len(self.vocabulary.words))
            for k, name in enumerate(self.vocabulary.words):
                yield f"{name!r}: events in {window}", np.log1p(said[:, k])

        idle = np.full(shape[0] * shape[1], np.inf)
        idle[cell] = age  # the events of a cell come in the order of time, so the newest is written last, as above
        for g, name in enumerate(groups):
            days_since = idle.reshape(shape)[:, g]
            yield f"{name}: days since the last", np.log1p(np.minimum(days_since, self.lookback))
            yield f"{name}: never", np.isinf(days_since).astype(np.float64)

    def _members(self, past: Profiles) -> tuple[Ints, Ints]:
        """Every event once for each of its groups: all, its modality, its category (where that is counted)."""
        number = {category: 1 + len(self.modalities) + n for n, category in enumerate(self.categories)}
        texts = zip(past.texts.modality, past.texts.category, strict=True)
        by_text = np.array([number.get((m, c), number.get((m, None), -1)) for m, c in texts], np.int64)
        everything = np.zeros(len(past.time), np.int64)
        groups = np.stack([everything, 1 + past.modality.astype(np.int64), by_text[past.text]])
        layer, event = np.nonzero(groups >= 0)
        return event, groups[layer, event]


def categories(past: Profiles) -> list[tuple[str, str | None]]:
    """The (modality, category) worth counting; (modality, None) pools the rare ones.

    A modality of one category has none: they would repeat the modality's own counts.
    """
    known = {pair: n for n, pair in enumerate(zip(past.texts.modality, past.texts.category, strict=True))}
    code = np.array([known[pair] for pair in zip(past.texts.modality, past.texts.category, strict=True)])
    pairs = np.unique(past.owner * len(past.texts) + code[past.text])
    profiles = np.bincount(pairs % len(past.texts), minlength=len(past.texts))
    chosen: list[tuple[str, str | None]] = []
    for modality in past.modalities:
        seen = [(c, profiles[n]) for (m, c), n in sorted(known.items()) if m == modality and profiles[n]]
        frequent: list[str | None] = [c for c, held in seen if held >= MIN_PROFILES]
        kept = frequent + [None] * (len(frequent) < len(seen))
        chosen += [(modality, c) for c in kept] if len(kept) > 1 else []
    return chosen


def _age(past: Profiles) -> Floats:
    """[E] days from each event to its profile's `as_of`."""
    return (past.as_of[past.owner] - past.time) / DAY


def _signed_log(x: Floats) -> Floats:
    return np.copysign(np.log1p(np.abs(x)), x)


def _last_of_day(cell: Ints, time: Ints) -> npt.NDArray[np.bool_]:
    """Which events are the last of their cell on their day: the last, since a window may begin within a day."""
    day = time // DAY
    _, place = np.unique((cell * (day.max(initial=0) + 1) + day)[::-1], return_index=True)
    chosen = np.zeros(len(cell), bool)
    chosen[len(cell) - 1 - place] = True
    return chosen
