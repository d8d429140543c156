"""Phrases: how questions and answers are put into words; `english.py` and `chinese.py` hold them.

A frame is a sentence with fields in braces. Frames that stand side by side say the same in different ways; which one a
user gets goes by a stable hash of user, as_of and topic. Tables are indexed by the bands of `evidence`.
Shapes: B users of a cohort, T texts, K kinds of texts; words are object arrays of str.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl

from qanchor.events.profiles import Texts
from qanchor.useru.evidence import VALUE_EDGES, Bools, Evidence, Ints

Words = npt.NDArray[np.object_]
Frames = tuple[str, ...]
Fields = dict[str, Words | str]

WORD, HAN = re.compile(r"[^\W\u4e00-\u9fff]+"), re.compile(r"[\u4e00-\u9fff]")
LONGEST = 8
"""Words of a text that an answer repeats; two Chinese characters count as one word."""
SUPPORT = 3
"""Texts that are told as an answer's support."""


@dataclass(frozen=True)
class Topic:
    """One kind of question: how it is asked, how it is answered, and what is said where there is nothing to go by."""

    questions: Frames
    answers: Frames
    nothing: Frames


@dataclass(frozen=True)
class Phrases:
    """One language."""

    comma: str
    """Between the things of a list."""
    pause: str
    """Before one more clause."""
    semicolon: str
    """Between the items of a summary."""
    conjunction: str
    """Between the last two of "a, b or c"."""
    periods: dict[int, str]
    """Prediction windows that have a name of their own, by days."""
    days: str
    """A window of {days} days without one."""
    times: Frames
    """Once, twice, and more times."""

    future: Topic
    focus: Topic
    fact: Topic
    habits: dict[str, Topic]

    often: Frames
    """[8] by `Evidence.often`."""
    otherwise: Frames
    """[8] how often the user does something else, where there is nothing of what was asked for."""
    ago: Frames
    """[6] by `Evidence.recency`."""
    onset: Frames
    """[6] by `Evidence.onset`: of a single event, then of several."""
    trend: Frames
    """[5] by `Evidence.trend`."""
    part: Frames
    """[4] by quarters of the day."""
    week: Frames
    """[5] almost only on weekdays, rather on weekdays, evenly, rather at weekends, mostly at weekends."""
    weekday: Frames
    """[7] from Monday on."""
    third: Frames
    """[3] of a month."""
    mostly: str
    """Before the part of the day or the week that has half of the events or more."""
    amount: str
    """Before the band of a typical {value}."""
    below_zero: str
    share: Frames
    """[11] tenths of the whole."""
    part_of_all: str
    """{name} with its {share} of everything."""
    level: Frames
    """[4] events on an active day."""
    gap: Frames
    """[6] days of the longest stretch without an event."""
    rhythm: Frames
    """[5] days from one active day to the next, on average."""
    repeats: Frames
    """[3] how much of the activity says something again."""
    named: Frames
    """[5] the most frequent texts, by `Voice.naming`."""
    next: str
    """Before the second busiest part of the day."""
    rarely: str
    """Before a part of the day that is nearly empty."""
    money: str
    """Before the third of the month that has the largest sum."""
    change: Frames
    """[3] one kind more than before, one less, both."""

    def either(self, names: Sequence[str]) -> str:
        """a, b or c"""
        *most, last = names
        return self.comma.join(most) + self.conjunction + last if most else last

    def period(self, days: int) -> str:
        return self.periods.get(days, self.days.format(days=days))


@dataclass(frozen=True)
class Voice:
    """A language together with the names of the things that it speaks of."""

    phrases: Phrases
    table: pl.Series
    """[T] texts as they are."""
    texts: Words
    """[T + 1] as answers repeat them: at most `LONGEST` words; the last is empty, for row -1."""
    length: Ints
    """[T] words of each."""
    same: Ints
    """[T] the first row with the same words: one text may be said in several modalities."""
    kind: Ints
    """[T] number of the category."""
    kinds: Words
    """[K + 1] names of the categories; the last is empty, for kind -1."""
    action: Ints
    """[T] number of the action category: modality and category."""
    modality: Ints
    """[T]"""
    modalities: Words
    """[M + 1] names; the last is empty, for modality -1."""

    @classmethod
    def of(cls, phrases: Phrases, texts: Texts, modalities: tuple[str, ...]) -> Voice:
        pairs = list(zip(texts.modality, texts.category, strict=True))
        kinds = {category: number for number, category in enumerate(sorted(set(texts.category)))}
        actions = {pair: number for number, pair in enumerate(sorted(set(pairs)))}
        shown = [_shorten(text) for text in texts.text]
        first: dict[str, int] = {}
        return cls(
            phrases,
            pl.Series(texts.text, dtype=pl.String),
            np.array([*shown, ""], object),
            np.array([_length(text) for text in shown], np.int64),
            np.array([first.setdefault(text, row) for row, text in enumerate(shown)], np.int64),
            np.array([kinds[category] for category in texts.category], np.int64),
            np.array([*(category.replace("_", " ") for category in kinds), ""], object),
            np.array([actions[pair] for pair in pairs], np.int64),
            np.array([modalities.index(name) for name in texts.modality], np.int64),
            np.array([*modalities, ""], object),
        )

    @cached_property
    def bands(self) -> Frames:
        """Labels of `evidence.value_band`."""
        edges = [f"{edge:.0f}" for edge in VALUE_EDGES]
        return (self.phrases.below_zero, *map("-".join, pairwise(edges)), f"{edges[-1]}+")

    def support(self, events: Evidence) -> pl.Series:
        """[B] the up to three most frequent texts of the events, as they are, each with how often: "3 x Latte"."""
        top_BK, count_BK = events.top(self.same[events.text], SUPPORT)
        has_BK = top_BK >= 0
        told = pl.Series(count_BK[has_BK]).cast(pl.String) + " x " + self.table.gather(top_BK[has_BK])
        places = pl.Series(np.repeat(np.arange(events.users), has_BK.sum(1)))
        lists = pl.DataFrame({"user": places, "told": told}).group_by("user", maintain_order=True).agg("told")
        everyone = pl.DataFrame({"user": pl.arange(0, events.users, eager=True)})
        return everyone.join(lists, on="user", how="left", maintain_order="left")["told"].fill_null([])

    def naming(self, events: Evidence) -> Words:
        """[B] the one or two most frequent texts: one text (once, or always the same), one that is the most of them,
        just two, or two and others."""
        top, count = events.top(self.same[events.text], 3)
        total = events.count()
        band = np.select(
            [top[:, 1] < 0, 2 * count[:, 0] > total, top[:, 2] < 0], [np.minimum(total - 1, 1), 2, 3], default=4
        )
        return choose(self.phrases.named, band, first=self.texts[top[:, 0]], second=self.texts[top[:, 1]])


def say(table: Frames, band: npt.NDArray[np.integer], lead: str = "") -> Words:
    """[B] the table's word of each band, after `lead`; nothing where the band is negative or its word is empty."""
    words = [lead + word if word else "" for word in table]
    return np.array([*words, ""], object)[np.where(band < 0, len(table), band)]


def choose(frames: Frames, number: npt.NDArray[np.integer], **fields: Words | str) -> Words:
    """[B] each user's own frame, filled in; `number` [B] says which; nothing where it is negative."""
    out: Words = np.full(len(number), "", object)
    for own, frame in enumerate(frames):
        rows = np.flatnonzero(number == own)
        for literal, field, _, _ in string.Formatter().parse(frame) if len(rows) else ():
            value = fields[field] if field else ""
            out[rows] = out[rows] + (literal + (value if isinstance(value, str) else value[rows]))
    return out


def speak(
    topic: Topic, number: npt.NDArray[np.uint64], wording: int, some: Bools, fields: Fields
) -> tuple[Words, Words]:
    """[B] questions and [B] answers; `some` [B] says who has anything to tell.

    `number` [B] chooses each user's words. Those with nothing to tell say it alike, in the words that `wording`
    chooses: they have the same answer, and should not look different to a contrastive loss.
    """
    ask, tell = (number & np.uint64(0xFFFF)).astype(np.int64), (number >> np.uint64(32)).astype(np.int64)
    questions = choose(topic.questions, ask % len(topic.questions), **fields)
    answers = choose(topic.answers, np.where(some, tell % len(topic.answers), -1), **fields)
    nothing = choose(topic.nothing[wording % len(topic.nothing) :][:1], np.where(some, -1, 0), **fields)
    sentences = [text[:1].upper() + text[1:] for text in answers + nothing]
    return questions, np.array([*sentences, ""], object)[:-1]


def stable_hash(text: str) -> int:
    """64 bits that are the same on every machine and in every run."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def _shorten(text: str) -> str:
    text = text.replace("_", " ").strip().rstrip(".。")
    words = text.split()
    return text[: 8 * LONGEST] if _length(text) <= LONGEST or len(words) < 2 else " ".join(words[:LONGEST]) + " …"


def _length(text: str) -> int:
    return len(WORD.findall(text)) + len(HAN.findall(text)) // 2
