"""Concepts: the things that questions are about, mined from the logs themselves, so that anyone's logs will do.

A concept is a word, a category of several words, or a union of up to three of them ("concerts, live shows or
festivals"), with the rows of the text table that it speaks of. A word speaks of every text that has it anywhere in its
modality, category or text, as a whole word, singular or plural; several words of a category must all be there.
Names are mined from lookback windows only, so that no future fact can be in a question.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from qanchor.events.profiles import Texts
from qanchor.useru.evidence import Evidence

Rows = npt.NDArray[np.int64]

SINGLES = 800
"""At most so many concepts that are not unions; as many unions are added."""
COMMONEST, COMMONEST_CATEGORY = 0.6, 0.99
"""Shares of the users above which a word, a category or a modality tells users too little apart."""
RAREST = 0.005
LIFT, RELATED = 1.3, 8
"""Two concepts are related when they meet in so many times more users than chance would have; a concept's partners
are drawn from so many of its relatives, those that chance explains least."""

LATIN = re.compile(r"[^\W\d_\u4e00-\u9fff]{3,}")
HAN = re.compile(r"[\u4e00-\u9fff]{2,}")
LONGEST_RUN = 8
"""Characters of a Chinese run that may be one name."""
VARIETY = 5
"""Different characters before (after) a piece of Chinese that show that it starts (ends) there."""
INVARIANT = frozenset({"news", "series", "lens", "atlas", "canvas", "christmas"})
STOPS = """about after again all also and another any anyone anything are because been before being best better between
both but can could did does doing done down during each else ever every few find for from further get getting got good
had has have having her here hers him his how into its just know let like long look looking made make making many more
most much near need new not now off once one only other our out over own page per really same see she should some
someone something start still such take than that the their them then there these they thing this those through too two
under until upon use used user users using very via view want was way were what when where which while who whom whose
why will with within without would you your"""
STOP_WORDS = frozenset(STOPS.split())


@dataclass(frozen=True)
class Concept:
    name: str
    """How it is said in a question."""
    rows: Rows
    """Rows of the text table that match, ascending."""
    words: tuple[tuple[str, ...], ...]
    """What makes a text match: all words of one of these."""


def spoken(texts: Texts) -> pl.DataFrame:
    """`row`, `word`: once for every different word of every text, its modality and category included."""
    parts = zip(texts.modality, texts.category, texts.text, strict=True)
    found = pl.Series("word", [list(words(" ".join(part))) for part in parts], dtype=pl.List(pl.String))
    return found.to_frame().with_row_index("row").explode("word").drop_nulls()


def mine(events: Evidence, texts: Texts, said: pl.DataFrame) -> list[Concept]:
    """Concepts that some of the B users share and others lack, best first; `said` is what is `spoken` in `texts`.

    Words and categories that fewer than `RAREST` or more than `COMMONEST` of the users have are left out. Of more than
    `SINGLES` those stay that are a category's or a modality's name, and then those that many users have, that many
    different texts say, and that users come back to: sqrt(user frequency) * log(1 + texts) * log(1 + again), where
    `again` is how much likelier two events of one user are both of the concept than if everyone had the same tastes (at
    most 10). That puts "visa" before "get" and "way", which anyone may say. Of those that match the very same texts the
    longest name stays.
    """
    rows = np.unique(events.text)
    stems, names = _stemmed(texts, rows, said)
    seen = pl.DataFrame({"owner": events.owner, "row": events.text.astype(np.uint32)}).group_by("owner", "row").len()
    count, own = events.count(), pl.col("len").cast(pl.Int64)
    chance = float(len(events.owner)) ** 2 / max(1, int((count * (count - 1)).sum()))
    coarse = {" ".join(parts) for parts in map(_stems, {*texts.modality, *(texts.category[row] for row in rows)})}
    chosen = (
        seen.join(stems, on="row")
        .group_by("owner", "stem")
        .agg(own.sum())
        .group_by("stem")
        .agg(share=pl.len() / events.users, again=(own * (own - 1)).sum() * chance / own.sum() ** 2)
        .join(names.with_columns(coarse=pl.col("root").is_in(list(coarse))), on="stem")
        .filter(pl.col("share").is_between(RAREST, pl.when("coarse").then(COMMONEST_CATEGORY).otherwise(COMMONEST)))
        .join(stems.group_by("stem").agg(pl.col("row").sort()), on="stem")
        .sort(pl.col("name").str.len_chars(), "name", descending=[True, False])
        .unique("row", keep="first", maintain_order=True)
        .with_columns(
            score=pl.col("share").sqrt() * pl.col("row").list.len().log1p() * pl.col("again").clip(0, 10).log1p()
        )
        .sort("coarse", "score", "name", descending=[True, True, False])
        .head(SINGLES)
    )
    found = chosen.select("name", "row").iter_rows()
    return [Concept(name, np.array(rows, np.int64), (tuple(_stems(name)),)) for name, rows in found]


def words(text: str) -> set[str]:
    """The words of a text as they are written, lower-cased.

    Latin letters: three or more that are no stop word. Chinese: runs of two to eight characters, and all pieces of two
    to four characters (of which those stay that are words: `_whole`).
    """
    found = {word for word in LATIN.findall(text.lower()) if word not in STOP_WORDS}
    for run in HAN.findall(text):
        found.update(run[start:end] for start, end in _pieces(run))
        found.update([run] if len(run) <= LONGEST_RUN else [])
    return found


def stem(word: str) -> str:
    """The word without the plural's s: `visas` is `visa` and `shows` is `show`; `bus`, `news` and `glass` stay."""
    plural = len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) and word not in INVARIANT
    return word[:-1] if plural else word


def matches(concepts: Sequence[Concept], texts: Texts) -> tuple[Rows, Rows]:
    """The concepts of every text: row t of the table matches `members[offsets[t]:offsets[t + 1]]`."""
    rows = np.concatenate([np.empty(0, np.int64), *(concept.rows for concept in concepts)])
    number = np.repeat(np.arange(len(concepts)), np.array([len(concept.rows) for concept in concepts], np.int64))
    order = np.argsort(rows, kind="stable")
    return np.searchsorted(rows[order], np.arange(len(texts) + 1)), number[order]


def met(events: Evidence, offsets: Rows, members: Rows, concepts: int) -> npt.NDArray[np.bool_]:
    """[B, concepts] whether a user has an event of the concept; `offsets` and `members` as `matches` gives them."""
    texts = len(offsets) - 1
    owner, text = np.divmod(np.unique(events.owner * texts + events.text), max(1, texts))
    size = offsets[text + 1] - offsets[text]
    inner = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
    hit = np.zeros((events.users, concepts), bool)
    hit[np.repeat(owner, size), members[np.repeat(offsets[text], size) + inner]] = True
    return hit


def _stemmed(texts: Texts, seen: npt.NDArray[np.integer], said: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The words of all texts, and the several-word categories of the texts that were `seen`.

    Returns `row`, `stem`: once per text and stem that it has; and `stem`, `root`, `name`: what a stem's number stands
    for, and the form of it that most of the texts have that were seen.
    """
    forms = said.group_by("word").agg(len=pl.col("row").is_in(seen.tolist()).sum())
    pieces = forms["word"].str.contains(HAN.pattern)
    forms = forms.filter(~pieces | pl.col("word").is_in(_whole(texts)))
    forms = forms.with_columns(root=pl.Series([stem(word) for word in forms["word"]], dtype=pl.String))
    forms = forms.sort("root", "len", "word", descending=[False, True, False])
    names = forms.group_by("root", maintain_order=True).agg(name=pl.col("word").first()).with_row_index("stem")
    stems = said.join(forms.join(names, on="root").select("word", "stem"), on="word").select("row", "stem").unique()
    phrases = _phrases({texts.category[row] for row in seen}, stems.join(names, on="stem"))
    phrases = phrases.with_row_index("stem", offset=len(names))
    return (
        pl.concat([stems, phrases.select("row", "stem").explode("row")]),
        pl.concat([names, phrases.select("stem", "root", "name")]),
    )


def _whole(texts: Texts) -> list[str]:
    """Chinese has no spaces: a piece is taken for a word if it stands free on both sides.

    That is, some run starts with it or it follows `VARIETY` different characters; and the same for its end.
    """
    before: defaultdict[str, set[str]] = defaultdict(set)
    after: defaultdict[str, set[str]] = defaultdict(set)
    runs = {run for said in (texts.modality, texts.category, texts.text) for text in said for run in HAN.findall(text)}
    for run in runs:
        for start, end in _pieces(run):
            before[run[start:end]].add(run[:start][-1:])
            after[run[start:end]].add(run[end:][:1])
    free = [
        piece for piece in before if all("" in side[piece] or len(side[piece]) >= VARIETY for side in (before, after))
    ]
    return [*free, *(run for run in runs if len(run) <= LONGEST_RUN)]


def _pieces(run: str) -> list[tuple[int, int]]:
    """Where the pieces of two to four characters of a Chinese run start and end."""
    return [(start, start + size) for size in (2, 3, 4) for start in range(len(run) - size + 1)]


def _phrases(named: set[str], said: pl.DataFrame) -> pl.DataFrame:
    """Categories of several words: `root`, `name`, and the list `row` of the texts that have all of the words."""
    categories = {category: _stems(category) for category in sorted(named)}
    several = {" ".join(roots): (name, roots) for name, roots in categories.items() if len(roots) > 1}
    needed = {root for _, roots in several.values() for root in roots}
    found = said.filter(pl.col("root").is_in(list(needed))).group_by("root").agg("row").select("root", "row")
    rows = {root: set(rows) for root, rows in found.iter_rows()}
    several = {root: parts for root, parts in several.items() if rows.keys() >= set(parts[1])}
    return pl.DataFrame(
        {
            "root": list(several),
            "name": [name.lower().replace("_", " ") for name, _ in several.values()],
            "row": [sorted(set.intersection(*(rows[root] for root in roots))) for _, roots in several.values()],
        },
        schema={"root": pl.String, "name": pl.String, "row": pl.List(pl.UInt32)},
    )


def _stems(phrase: str) -> list[str]:
    """The words of a category's or a modality's name, Chinese runs whole."""
    return sorted({stem(word) for word in words(phrase) if not HAN.match(word)}.union(HAN.findall(phrase)))


def unite(
    singles: Sequence[Concept],
    events: Evidence,
    texts: Texts,
    join: Callable[[Sequence[str]], str],
    rng: np.random.Generator,
) -> list[Concept]:
    """Unions of two or three concepts, about as many as there are concepts: mostly related ones (`LIFT`), now and then
    random ones, none nested. `join` says "a, b or c" in the language of the questions."""
    if not singles:
        return []
    hit = met(events, *matches(singles, texts), len(singles))
    share = hit.mean(0)
    chance = events.users * np.outer(share, share)
    together = hit.T.astype(np.float32) @ hit.astype(np.float32)
    surprise = np.where(together >= LIFT * chance, (together - chance) / np.sqrt(chance), -np.inf)
    unions: dict[frozenset[int], Concept] = {}
    for anchor in rng.choice(len(singles), len(singles), p=np.sqrt(share) / np.sqrt(share).sum()):
        related = np.argsort(-surprise[anchor], kind="stable")[:RELATED]
        related = related[np.isfinite(surprise[anchor, related])]
        members = [int(anchor)]
        for _ in range(rng.integers(1, 3)):
            partner = int(rng.choice(related if len(related) and rng.random() < 0.75 else len(singles)))
            if not any(overlap(singles[partner], singles[member]) for member in members):
                members.append(partner)
        if len(members) > 1 and hit[:, members].any(1).mean() <= COMMONEST_CATEGORY:
            rows = np.unique(np.concatenate([singles[member].rows for member in members]))
            said = tuple(phrase for member in members for phrase in singles[member].words)
            unions[frozenset(members)] = Concept(join([singles[member].name for member in members]), rows, said)
    return list(unions.values())


def overlap(one: Concept, other: Concept) -> bool:
    """Whether half of the texts of one are texts of the other."""
    shared = len(np.intersect1d(one.rows, other.rows, assume_unique=True))
    return 2 * shared >= min(len(one.rows), len(other.rows))
