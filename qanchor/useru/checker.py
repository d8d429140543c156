"""The checker: parses answers and recomputes what they claim from the events; what it can't confirm is no answer.

Shapes: B answers of different users about one topic, E events, T texts, M modalities.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from qanchor.config import Config
from qanchor.errors import DataError
from qanchor.events.profiles import DAY, Profiles
from qanchor.useru import claims
from qanchor.useru.chinese import CHINESE
from qanchor.useru.english import ENGLISH
from qanchor.useru.evidence import Bools, Ints
from qanchor.useru.lookup import Lookup
from qanchor.useru.phrases import Topic, Voice
from qanchor.useru.recount import Claims, Recount, told
from qanchor.useru.sentences import Claim, Grammar, OneOf, Parts, filled, reads
from qanchor.useru.topics import LifeTopic, Pool, Wording

PRICED = 0.05
"""A modality with more than this share of events with a value has amounts."""
TIMED = 0.05
"""A modality with at least this share of events that aren't at midnight sharp tells the time of day."""


class Checker:
    """Checks answers about the keys of `past` and `future`, which have the same keys and text table."""

    def __init__(self, config: Config, past: Profiles, future: Profiles) -> None:
        self.config, self.past, self.future = config, past, future
        self.phrases = ENGLISH if config.useru.language == "en" else CHINESE
        self.voice = Voice.of(self.phrases, past.texts, past.modalities)
        self.grammar, self.lookup = Grammar(self.voice), Lookup(past.texts)
        self.period = self.phrases.period(config.windows.predict_days)
        self.lookback = np.array([config.lookback_days(name) for name in past.modalities], np.int64)
        snapshots = {source.modality for source in config.sources if source.features}
        acts = np.array([name not in snapshots for name in past.modalities])
        self.acts = acts if acts.any() else ~acts
        self.priced = self.acts & (_share(past, ~np.isnan(past.value)) > PRICED)
        self.timed = _share(past, past.time % DAY > 0) >= TIMED
        named = {source.modality: source.value.replace("_", " ") for source in config.sources[::-1] if source.value}
        self.values = [named.get(name, "") for name in past.modalities]
        self.often: dict[tuple[bool, int], npt.NDArray[np.int8]] = {}

    def confirm(
        self,
        key: npt.NDArray[np.int64],
        topic: str,
        concept_words: Sequence[Sequence[str]] | None,
        queries: Sequence[str],
        answers: Sequence[str],
    ) -> npt.NDArray[np.object_]:
        """[B] "" where the events of the profile `key` [B] confirm all that its answer claims, else why they don't.

        `topic` is "future", "future/CONCEPT", "concept/CONCEPT", "life/KEY", "habit/NAME" or "habit/NAME/MODALITY".
        `concept_words` says what an event must speak of to be of the concept: all words of one of the phrases, whole
        (Latin letters: singular or plural) and anywhere in its modality, category or text; Chinese stands as written.

        Raises:
            DataError: the topic is none of these, or a concept comes without its words.
        """
        kind, _, name = topic.partition("/")
        habit, _, modality = name.partition("/")
        if topic == "future":
            checked = self._summary(key)
        elif kind == "habit" and habit in claims.HABITS and modality in ("", *self.past.modalities):
            checked = self._habit(key, habit, modality)
        elif kind in ("future", "concept", "life") and name and concept_words is not None:
            texts = self.lookup.speaking(concept_words) & self.acts[self.voice.modality]
            checked = self._focus(key, name, texts) if kind == "future" else self._fact(key, kind, name, texts)
        else:
            raise DataError(
                f"no way to check the topic {topic!r} with the words {concept_words!r}: expected future, habit/NAME, "
                "or future/CONCEPT, concept/CONCEPT, life/KEY with the words of the concept"
            )
        pairs = enumerate(zip(key, queries, answers, strict=True))
        reasons = [checked.reason(row, query, answer) for row, (_, query, answer) in pairs]
        return np.array([*reasons, ""], object)[:-1]

    def _summary(self, key: Ints) -> Checked:
        recount = self._window(self.future, key, self.acts[self.voice.modality], self.config.windows.predict_days)
        return Checked(self.grammar, self.phrases.future, {"period": self.period}, *claims.future(recount))

    def _focus(self, key: Ints, name: str, texts: Bools) -> Checked:
        days = self.config.windows.predict_days
        some, table = claims.focus(self._window(self.future, key, texts, days))
        table["otherwise"] = self._otherwise(self.future, key, days)
        return Checked(self.grammar, self.phrases.focus, {"concept": name, "period": self.period}, some, table)

    def _fact(self, key: Ints, kind: str, name: str, texts: Bools) -> Checked:
        """In the shortest lookback window among the modalities of the concept."""
        has = np.bincount(self.voice.modality[texts], minlength=len(self.acts)) > 0
        days = int(self.lookback[has if has.any() else self.acts].min())
        recount = self._window(self.past, key, texts, days)
        some, table = claims.fact(recount, [*self._amounts(recount, has & self.priced)])
        table["otherwise"] = self._otherwise(self.past, key, days)
        asked = self.phrases.fact
        if kind == "life":
            wording = self._life(name)
            asked, name = replace(asked, questions=(*wording.questions, *asked.questions)), wording.name
        return Checked(self.grammar, asked, {"concept": name, "days": str(days)}, some, table)

    def _amounts(self, recount: Recount, modalities: Bools) -> Iterator[tuple[str, Bools]]:
        """The names that amounts of some modalities [M] have, each with the events [E] that have such an amount."""
        modality = self.voice.modality[recount.text]
        for name in sorted({self.values[number] for number in np.flatnonzero(modalities)}):
            called = self.priced & [name == value for value in self.values]
            yield name, called[modality] & ~np.isnan(recount.value)

    def _habit(self, key: Ints, name: str, modality: str) -> Checked:
        """In the shortest lookback window among the modalities that it speaks of."""
        only = np.array([other == modality for other in self.past.modalities]) if modality else self.acts
        days = int(self.lookback[only].min())
        recount = self._window(self.past, key, only[self.voice.modality], days)
        some, table = claims.HABITS[name](recount)
        table["often"] = told(self.phrases.often, recount.often())
        table["otherwise"] = self._otherwise(self.past, key, days)
        value = self.values[self.past.modalities.index(modality)] if modality else ""
        fixed = {"modality": modality, "value": value, "days": str(days)}
        return Checked(self.grammar, self.phrases.habits[name], fixed, some, table)

    def _window(self, profiles: Profiles, key: Ints, texts: Bools, days: int) -> Recount:
        """The events whose text is among `texts` [T]: of the last `days` days, or of the prediction window."""
        size = profiles.offsets[key + 1] - profiles.offsets[key]
        event = np.arange(size.sum()) + np.repeat(profiles.offsets[key] - np.cumsum(size) + size, size)
        user, end = np.repeat(np.arange(len(key)), size), profiles.as_of[key]
        end = end + days * DAY if profiles is self.future else end
        event, user = (column[texts[profiles.text[event]]] for column in (event, user))
        recent = profiles.time[event] >= (end - days * DAY)[user]
        event, user = event[recent], user[recent]
        columns = profiles.time[event], profiles.text[event], profiles.value[event].astype(np.float64)
        return Recount(self.voice, end, days, user, *columns, self.timed[profiles.modality[event]])

    def _otherwise(self, profiles: Profiles, key: Ints, days: int) -> Claims:
        """How often a user does anything at all; counted once for every key and window."""
        band = self.often.setdefault((profiles is self.past, days), np.full(len(profiles), -1, np.int8))
        new = key[band[key] < 0]
        if len(new):
            band[new] = self._window(profiles, new, self.acts[self.voice.modality], days).often()
        return told(self.phrases.otherwise, band[key])

    def _life(self, key: str) -> Wording:
        topic = self.pool.get(key)
        if topic is None:
            raise DataError(
                f"no topic {key!r} in the pool of {len(self.pool)} topics: build and check with the same pool"
            )
        return topic.en if self.config.useru.language == "en" else topic.zh

    @cached_property
    def pool(self) -> dict[str, LifeTopic]:
        topics = self.config.useru.topics
        return {topic.key: topic for topic in Pool.load(self.config.root / topics if topics else None).topics}


@dataclass(frozen=True)
class Checked:
    """One topic: its frames, and what the events of B users allow their fields to say."""

    grammar: Grammar
    topic: Topic
    fixed: dict[str, str]
    """Fields that are the same for everyone."""
    some: Bools
    """[B] who has anything to tell."""
    table: dict[str, Sequence[Claim]]
    """[B] of every other field."""

    def reason(self, row: int, query: str, answer: str) -> str:
        """Nothing if the answer is true of user `row`, else what is wrong with it."""
        if query not in self.questions:
            return f"question: {query!r} is none of the topic's"
        said = {field: self.table[field][row] if field in self.table else OneOf(()) for field in self.open}
        true, false = (self.told, self.nothing) if self.some[row] else (self.nothing, self.told)
        if any(reads(parts, answer, said) for parts in true):
            return ""
        if any(reads(parts, answer, said) for parts in false):
            return f"nothing: the events tell {'something' if self.some[row] else 'too little'}"
        return self.grammar.wrong([*true, *false], answer, said)

    @cached_property
    def open(self) -> set[str]:
        """Fields that are not the same for everyone."""
        return {field for parts in (*self.told, *self.nothing) for _, field in parts if field}

    @cached_property
    def questions(self) -> set[str]:
        return {frame.format(**self.fixed) for frame in self.topic.questions}

    @cached_property
    def told(self) -> list[Parts]:
        return [filled(frame, self.fixed) for frame in self.topic.answers]

    @cached_property
    def nothing(self) -> list[Parts]:
        return [filled(frame, self.fixed) for frame in self.topic.nothing]


def _share(profiles: Profiles, has: Bools) -> npt.NDArray[np.float64]:
    """[M] share of the events that have it, by modality."""
    size, part = (
        np.bincount(of, minlength=len(profiles.modalities)) for of in (profiles.modality, profiles.modality[has])
    )
    return part / np.maximum(size, 1)
