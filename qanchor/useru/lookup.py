"""Lookup: which texts speak of something, by an inverted index over all of them."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from functools import cache
from itertools import pairwise

import numpy as np
import polars as pl

from qanchor.events.profiles import Texts
from qanchor.useru.concepts import INVARIANT, STOP_WORDS
from qanchor.useru.evidence import Bools, Ints

LATIN, HAN = re.compile(r"[^\W\d_\u4e00-\u9fff]{3,}"), re.compile(r"[\u4e00-\u9fff]+")


class Lookup:
    """Texts by their terms: words without the plural's s, and pairs of Chinese characters.

    The modality and the category count as said with the text.
    """

    def __init__(self, texts: Texts) -> None:
        self.said = [" ".join(parts).lower() for parts in zip(texts.modality, texts.category, texts.text, strict=True)]
        found = pl.Series("term", [list(terms(text, STOP_WORDS)) for text in self.said], dtype=pl.List(pl.String))
        by_term = found.to_frame().with_row_index("row").explode("term").drop_nulls().sort("term", "row")
        groups = by_term["term"].rle().struct.unnest()
        ends = groups["len"].cum_sum().to_list()
        self.row = by_term["row"].to_numpy().astype(np.int64)
        self.span = dict(zip(groups["value"], pairwise([0, *ends]), strict=True))
        self.known: dict[tuple[tuple[str, ...], ...], Ints] = {}

    def speaking(self, phrases: Sequence[Sequence[str]]) -> Bools:
        """[T] which texts have all words of one of the phrases; Chinese words as they are written."""
        named = tuple(map(tuple, phrases))
        if named not in self.known:
            self.known[named] = np.flatnonzero(np.any([self._none(), *map(self._with, named)], axis=0))
        out = self._none()
        out[self.known[named]] = True
        return out

    def _with(self, phrase: Sequence[str]) -> Bools:
        """[T] which texts have all words of one phrase; none if it has no words."""
        written = [word.lower() for word in phrase if HAN.search(word)]
        needed = {term for word in phrase for term in terms(word.lower())}
        out = self._none()
        if not needed.union(written):
            return out
        count = np.zeros(len(out), np.int64)
        for term in needed:
            count[self.row[slice(*self.span.get(term, (0, 0)))]] += 1
        rows = np.flatnonzero(count == len(needed))
        out[[row for row in rows.tolist() if all(word in self.said[row] for word in written)] if written else rows] = (
            True
        )
        return out

    def _none(self) -> Bools:
        return np.zeros(len(self.said), bool)


def terms(text: str, but: Set[str] = frozenset()) -> set[str]:
    """What a lower-case text is found by; `but` are words that say nothing."""
    words = {singular(word) for word in LATIN.findall(text) if word not in but}
    return words.union(*(map("".join, pairwise(run)) for run in HAN.findall(text)))


@cache
def singular(word: str) -> str:
    """`visas` is `visa`; `bus`, `glass`, `news` are as they are."""
    return word if len(word) < 4 or word.endswith(("ss", "us", "is")) or word in INVARIANT else word.removesuffix("s")
