"""Subjects: what D_uqa may ask a user about, and which ten of them a user's profile speaks of most (section 3.1).

Shapes: B users, C subjects, T texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from qanchor.events.profiles import Texts
from qanchor.useru import concepts
from qanchor.useru.concepts import HAN, RAREST, Concept, Rows
from qanchor.useru.evidence import Evidence, Ints
from qanchor.useru.phrases import Topic
from qanchor.useru.topics import LifeTopic, Pool, Wording

ABSENT = 5.0
"""Deviance of an absence that is worth telling: where 2.5 events were to be expected, one user in twelve has none."""
ENOUGH = 36
"""Subjects from which on a mere word of the logs is not needed as one; the name of a category or modality still is."""


@dataclass(frozen=True)
class Subject:
    """A topic of the pool that the logs speak of, or a concept of the logs that the pool lacks."""

    name: str
    """What UserU calls it: `life/KEY` or `concept/NAME`."""
    concept: Concept
    topic: Topic
    """How it is asked and answered."""


class Subjects:
    """The pool's topics as far as these logs speak of them; the places of the others go to the logs' own concepts.

    So a wallet is asked about groceries and commuting, and a forum, whose logs know little of such a life, about what
    its members do there.
    """

    def __init__(
        self, pool: Pool, language: str, fact: Topic, mined: Sequence[Concept], events: Evidence, texts: Texts
    ) -> None:
        """`mined` are concepts of the logs, best first; `events` a sample of users, `fact` the language's frames."""
        spoken = zip(pool.topics, speaking(pool, texts), strict=True)
        life = [_life(topic, rows, language, fact) for topic, rows in spoken if len(rows)]
        met = concepts.met(events, *concepts.matches([s.concept for s in life], texts), len(life)).mean(0)
        self.all = [subject for subject, share in zip(life, met, strict=True) if share >= RAREST]
        named = {name.lower().replace("_", " ") for name in (*texts.modality, *texts.category)}
        for concept in mined:
            wanted = len(pool.topics) if concept.name in named else min(ENOUGH, len(pool.topics))
            if len(self.all) < wanted and not any(concepts.overlap(concept, subject.concept) for subject in self.all):
                self.all.append(Subject(f"concept/{concept.name}", concept, fact))
        self.index = concepts.matches([subject.concept for subject in self.all], texts)
        count_C = self._counts(events).sum(0)
        self.share_C = count_C / max(1, len(events.owner))

    def strongest(self, events: Evidence, k: int) -> Ints:
        """[B, k] the subjects with the strongest evidence, strongest first; -1 where a user has fewer.

        The evidence is how far a user's number of events n is from the number e that a user of as many events has on
        average, as Poisson deviance 2 (n log(n / e) - (n - e)): what someone does far more than others, and what
        someone never does that others do all the time. That someone does nothing of a subject counts from `ABSENT` on
        only: of a user with few events it says nothing, and too many would be told the same.
        """
        count_BC = self._counts(events)
        expected_BC = events.count()[:, None] * self.share_C
        ratio_BC = np.where(count_BC > 0, count_BC / np.maximum(expected_BC, 1e-9), 1)
        strength_BC = 2 * (count_BC * np.log(ratio_BC) - (count_BC - expected_BC))
        strength_BC[(count_BC == 0) & (strength_BC < ABSENT)] = 0
        order_BC = np.argsort(-strength_BC, axis=1, kind="stable")[:, :k]
        return np.where(np.take_along_axis(strength_BC, order_BC, 1) > 0, order_BC, -1)

    def _counts(self, events: Evidence) -> Ints:
        """[B, C] events of each subject."""
        offsets, members = self.index
        size = offsets[events.text + 1] - offsets[events.text]
        inner = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        subject = members[np.repeat(offsets[events.text], size) + inner]
        cell = np.repeat(events.owner, size) * len(self.all) + subject
        return np.bincount(cell, minlength=events.users * len(self.all)).reshape(events.users, len(self.all))


def speaking(pool: Pool, texts: Texts) -> list[Rows]:
    """Rows of the text table that speak of each topic of the pool, in either language.

    English evidence matches as in `concepts`: all words of a phrase, anywhere in modality, category or text, singular
    or plural. Chinese, which has no spaces, matches as it is written.
    """
    said = [" ".join(parts).lower() for parts in zip(texts.modality, texts.category, texts.text, strict=True)]
    found = [_latin(pool, concepts.spoken(texts)), _han(pool, pl.Series("text", said, dtype=pl.String))]
    rows = dict(pl.concat(found).group_by("topic").agg(pl.col("row").unique().sort()).iter_rows())
    return [np.array(rows.get(number, []), np.int64) for number in range(len(pool.topics))]


def _latin(pool: Pool, said: pl.DataFrame) -> pl.DataFrame:
    """`topic`, `row` of the English evidence."""
    topics = enumerate(pool.topics)
    phrases = [(number, concepts.words(phrase)) for number, topic in topics for phrase in topic.en.words]
    needs = pl.DataFrame(
        [
            (number, p, concepts.stem(word), len(phrase))
            for p, (number, phrase) in enumerate(phrases)
            for word in sorted(phrase)
        ],
        schema={"topic": pl.Int64, "phrase": pl.Int64, "root": pl.String, "needed": pl.UInt32},
        orient="row",
    )
    forms = said.select(pl.col("word").unique())
    forms = forms.with_columns(root=pl.Series([concepts.stem(word) for word in forms["word"]], dtype=pl.String))
    hits = said.join(forms.join(needs, on="root"), on="word")
    return (
        hits.group_by("topic", "phrase", "row")
        .agg(pl.col("root").n_unique(), pl.col("needed").first())
        .filter(pl.col("root") == pl.col("needed"))
        .select("topic", "row")
    )


def _han(pool: Pool, text: pl.Series) -> pl.DataFrame:
    """`topic`, `row` of the Chinese evidence."""
    words = pl.DataFrame(
        [(number, word) for number, topic in enumerate(pool.topics) for word in topic.zh.words],
        schema={"topic": pl.Int64, "word": pl.String},
        orient="row",
    )
    found = text.str.extract_many(words["word"].unique(maintain_order=True).implode(), overlapping=True)
    rows = found.alias("word").to_frame().with_row_index("row").filter(text.str.contains(HAN.pattern))
    return rows.explode("word").drop_nulls().join(words, on="word").select("topic", "row")


def _life(topic: LifeTopic, rows: Rows, language: str, fact: Topic) -> Subject:
    wording: Wording = topic.en if language == "en" else topic.zh
    said = [tuple(sorted(concepts.words(phrase))) for phrase in topic.en.words] + [(word,) for word in topic.zh.words]
    asked = Topic((*wording.questions, *fact.questions), fact.answers, fact.nothing)
    return Subject(f"life/{topic.key}", Concept(wording.name, rows, tuple(said)), asked)
