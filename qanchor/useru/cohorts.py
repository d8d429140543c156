"""Cohorts: which questions a group of users is asked, alike or each by its own evidence, and their answers.

Shapes: B users of a cohort, E events, C concepts, T texts, M modalities.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qanchor.config import Config
from qanchor.events.profiles import DAY, Profiles
from qanchor.useru import concepts, facts, future, habits
from qanchor.useru.chinese import CHINESE
from qanchor.useru.concepts import Concept
from qanchor.useru.english import ENGLISH
from qanchor.useru.evidence import Bools, Evidence, Ints, tells_time
from qanchor.useru.phrases import Fields, Topic, Voice, say
from qanchor.useru.subjects import Subject, Subjects
from qanchor.useru.topics import Pool

KNOWN = 0.4
"""A concept that at least so many users of a cohort have is well known to it, or half as many as the best known."""
SAMPLE = 4096
"""Concepts are mined from so many profiles."""
PRICED = 0.05
"""A modality with more than this share of events with a value is asked about its amounts."""


class Asked(NamedTuple):
    """One topic of a cohort: what is asked, and what each user's events say."""

    source: str
    name: str
    topic: Topic
    some: Bools
    """[B] who has anything to tell."""
    fields: Fields
    """[B] what the sentences are filled with."""
    events: Evidence
    """What the answers speak of."""
    words: tuple[tuple[str, ...], ...] | None = None
    """Of topics about a concept: what makes a text speak of it."""


@dataclass(frozen=True)
class Modalities:
    """What a modality can be asked about. All arrays [M]."""

    acts: Bools
    """Events that users bring about; False for tabular snapshots (unless there is nothing else)."""
    priced: Bools
    """Acts, and has values."""
    values: tuple[str, ...]
    """What its value is called."""

    @classmethod
    def of(cls, config: Config, past: Profiles) -> Modalities:
        snapshots = {source.modality for source in config.sources if source.features}
        acts = np.array([name not in snapshots for name in past.modalities])
        acts = acts if acts.any() else ~acts
        size = np.bincount(past.modality, minlength=len(acts))
        valued = np.bincount(past.modality[~np.isnan(past.value)], minlength=len(acts))
        names = {source.modality: source.value.replace("_", " ") for source in config.sources[::-1] if source.value}
        return cls(acts, acts & (valued > PRICED * size), tuple(names.get(name, "") for name in past.modalities))


class Interviewer:
    """Draws a cohort's topics and answers them; what it knows of the data set is gathered once."""

    def __init__(self, config: Config, past: Profiles, future: Profiles, seed: int) -> None:
        phrases = ENGLISH if config.useru.language == "en" else CHINESE
        rng = np.random.default_rng(seed)
        self.past, self.future, self.seed = past, future, seed
        self.settings = config.useru
        self.predict_days = config.windows.predict_days
        self.period = phrases.period(self.predict_days)
        self.voice = Voice.of(phrases, past.texts, past.modalities)
        self.lookback = np.array([config.lookback_days(name) for name in past.modalities], np.int64)
        self.past_timed, self.future_timed = tells_time(past), tells_time(future)
        self.modalities = Modalities.of(config, past)
        sample = self._acting(self._before(past.take(rng.permutation(len(past))[:SAMPLE])))
        mined = concepts.mine(sample, past.texts, concepts.spoken(past.texts))
        self.pool = mined + concepts.unite(mined, sample, past.texts, phrases.either, rng)
        self.index = concepts.matches(self.pool, past.texts)
        topics = Pool.load(config.root / config.useru.topics if config.useru.topics else None)
        self.subjects = Subjects(topics, config.useru.language, phrases.fact, mined, sample, past.texts)

    def ask(self, rows: Ints, cohort: int) -> Iterator[Asked]:
        """What all of one cohort are asked, the keys of `rows` [B]; the same seed and cohort draw the same topics.

        The summary of the future and `config.useru.future` - 1 focused futures; and `config.useru.shared` topics about
        the past, two thirds of them facts about concepts, the rest habits. Tabular snapshots come for everyone at fixed
        times and tell nothing of what a user does: the only topic that they speak to is the habit "profile".
        """
        rng = np.random.default_rng((self.seed, cohort))
        future = self.future.take(rows)
        every = self._before(self.past.take(rows))
        before = self._acting(every)
        after = self._acting(Evidence.of(future, self.predict_days, future.as_of, self.future_timed))
        yield self._summary(after)
        focused = self._draw(after, self.settings.future - 1, rng)
        known, fact = self._draw(before, round(self.settings.shared * 2 / 3), rng), self.voice.phrases.fact
        yield from (self._focus(concept, after) for concept in focused)
        yield from (self._fact(Subject(f"concept/{concept.name}", concept, fact), before) for concept in known)
        yield from self._habits(every, before, self.settings.shared - len(known), rng)

    def ask_each(self, rows: Ints) -> Iterator[tuple[Ints, Ints, Asked]]:
        """What the keys of `rows` [B] are asked by their own evidence: `config.useru.uqa` topics each.

        Yields, topic by topic, the places in `rows` of those who are asked, the topic's rank among their own, and it.
        """
        before = self._acting(self._before(self.past.take(rows)))
        own_BK = self.subjects.strongest(before, self.settings.uqa)
        for number in np.unique(own_BK[own_BK >= 0]):
            place, rank = np.nonzero(own_BK == number)
            yield place, rank, self._fact(self.subjects.all[number], before.take(place))

    def _before(self, past: Profiles) -> Evidence:
        days = int(self.lookback.max())
        return Evidence.of(past, days, past.as_of - days * DAY, self.past_timed)

    def _acting(self, events: Evidence) -> Evidence:
        return events.where(self.modalities.acts[events.modality])

    def _draw(self, events: Evidence, slots: int, rng: np.random.Generator) -> list[Concept]:
        """Concepts that the cohort is asked about, more likely those that more users have (by the square root).

        Two thirds of the slots go to well known ones, as far as there are any, so that about half of the users have
        something to tell; the others to whatever anyone has. What nearly all have tells users apart by degree only, so
        the square root is that of share * (1 - share), and a bit.
        """
        share = concepts.met(events, *self.index, len(self.pool)).mean(0)
        weight = np.sqrt(share * (1.02 - share))
        enough = min(KNOWN, share.max(initial=0) / 2)
        known = _sample(np.where(share >= enough, weight, 0), -(-2 * slots // 3), rng)
        weight[known] = 0
        return [self.pool[n] for n in (*known, *_sample(weight, slots - len(known), rng))]

    def _summary(self, after: Evidence) -> Asked:
        told = future.summary(after, self.voice, self.period)
        return Asked("future", "future", self.voice.phrases.future, *told, after)

    def _focus(self, concept: Concept, after: Evidence) -> Asked:
        matching = self._matching(concept, after)
        told = future.focus(concept, matching, after, self.voice, self.period)
        return Asked("future", f"future/{concept.name}", self.voice.phrases.focus, *told, matching, concept.words)

    def _fact(self, subject: Subject, before: Evidence) -> Asked:
        """Facts of the shortest lookback window among the concept's modalities, so that its halves compare."""
        concept = subject.concept
        texts = np.bincount(self.voice.modality[concept.rows], minlength=len(self.lookback))
        before = before.last(int(self.lookback[(texts > 0) & self.modalities.acts].min()))
        matching = self._matching(concept, before)
        value = self.modalities.values[int(np.where(self.modalities.priced, texts, -1).argmax())]
        amounts = self.modalities.priced & (np.array(self.modalities.values) == value)
        told = facts.about(concept, matching, before, amounts[matching.modality], value, self.voice)
        return Asked("uqa", subject.name, subject.topic, *told, matching, concept.words)

    def _matching(self, concept: Concept, events: Evidence) -> Evidence:
        matched = np.zeros(len(self.past.texts), bool)
        matched[concept.rows] = True
        return events.where(matched[events.text])

    def _habits(self, every: Evidence, before: Evidence, slots: int, rng: np.random.Generator) -> Iterator[Asked]:
        habits_of = self._scopes()
        for chosen in rng.permutation(len(habits_of))[:slots]:
            name, topic, modalities = habits_of[chosen]
            days = int(self.lookback[modalities].min())
            events = every.where(modalities[every.modality]).last(days)
            some, fields = habits.HABITS[name](events, self.voice)
            first = int(modalities.argmax())
            fields |= {
                "modality": self.past.modalities[first],
                "value": self.modalities.values[first],
                "days": str(days),
                "often": say(self.voice.phrases.often, events.often()),
                "otherwise": say(self.voice.phrases.otherwise, before.last(days).often()),
            }
            yield Asked("uqa", topic, self.voice.phrases.habits[name], some, fields, events)

    def _scopes(self) -> list[tuple[str, str, Bools]]:
        """All habits that can tell these users apart: name, topic, and the modalities [M] that they speak of."""
        acts, priced = self.modalities.acts, self.modalities.priced
        kinds = np.unique(self.voice.kind[acts[self.voice.modality]])
        pointless = {
            "day": not self.past_timed[acts].any(),
            "mix": acts.sum() < 2,
            "interests": len(kinds) <= acts.sum(),
            "change": len(kinds) < 2,
            "month": self.lookback[acts].min() < 28,
        }
        scopes = [(name, f"habit/{name}", acts) for name in habits.GENERAL if not pointless.get(name)]
        for name, asked in (("favourites", acts), ("spending", priced), ("profile", ~acts)):
            for number in np.flatnonzero(asked):
                only = np.arange(len(acts)) == number
                scopes.append((name, f"habit/{name}/{self.past.modalities[number]}", only))
        return scopes


def _sample(weight: npt.NDArray[np.float64], size: int, rng: np.random.Generator) -> list[int]:
    """Up to `size` different indices of positive weight, drawn with probability by weight."""
    size = min(size, int((weight > 0).sum()))
    return rng.choice(len(weight), size, replace=False, p=weight / weight.sum()).tolist() if size else []
