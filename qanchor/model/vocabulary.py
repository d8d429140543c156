"""Words by which users differ: how many of a user's events say each, for readouts (tally.py).

Categories are as coarse as a company's logs keep them: "shopping" holds a flagship store and an outlet, "login" a
finger and a new device. What tells them apart stands in the texts, and there in few words, which lines and trees pick
from by themselves (docs/decisions/0014-words.md). Hashed words would need no list; but then each shares a place with
thirty others, and half of the gain is lost.

Shapes: T texts of a table, K words, R (user, text) pairs, B users.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qanchor.events.profiles import Profiles, Texts
from qanchor.model.text_encoder import pieces

WORDS = 600
"""At most."""
LOOKED_AT = 20_000
"""Profiles by which words are chosen, at most."""
LEAST = 20
"""Profiles that say a word, at least: what fewer say tells little, and may be somebody's name."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Mentions:
    """Which words the texts of a table say, each once: text t those of word[offset[t]:offset[t + 1]]."""

    word: Ints
    offset: Ints

    @classmethod
    def none(cls, texts: Texts) -> Mentions:
        """No text says any."""
        return cls(np.zeros(0, np.int64), np.zeros(len(texts) + 1, np.int64))

    def counted(self, users: int, owner_R: Ints, text_R: Ints, times_R: npt.NDArray[np.float64]) -> Floats:
        """[B, WORDS] log counts of the events that say each word, of (user, text) pairs that occur so many times."""
        pair, word = self.of(text_R)
        counts = np.bincount(owner_R[pair] * WORDS + word, times_R[pair], users * WORDS)
        return np.log1p(counts).reshape(users, WORDS).astype(np.float32)

    def of(self, text_R: Ints) -> tuple[Ints, Ints]:
        """(which of `text_R`, word) of each word that they say, one after another."""
        start, size = self.offset[text_R], self.offset[text_R + 1] - self.offset[text_R]
        pair = np.repeat(np.arange(len(text_R)), size)
        place = np.arange(len(pair)) - np.repeat(size.cumsum() - size, size)
        return pair, self.word[start[pair] + place]


@dataclass(frozen=True)
class Vocabulary:
    """The words that are counted; none of a model that was never tuned."""

    words: tuple[str, ...] = ()

    @classmethod
    def of(cls, profiles: Profiles) -> Vocabulary:
        """Those that come nearest to being said by half of the profiles, of all that their events say."""
        some = profiles.take(np.sort(np.random.default_rng(0).permutation(len(profiles))[:LOOKED_AT]))
        known = list(dict.fromkeys(word for text in some.texts.described for word in pieces(text)))
        pairs = np.unique(some.owner * max(1, len(some.texts)) + some.text)
        owner_R, text_R = np.divmod(pairs, max(1, len(some.texts)))
        pair, word = cls(tuple(known)).mentions(some.texts).of(text_R)
        said = np.unique(owner_R[pair] * max(1, len(known)) + word) % max(1, len(known))
        users = np.bincount(said, minlength=len(known))
        apart = np.minimum(users, len(some) - users)
        chosen = np.argsort(-apart, kind="stable")[:WORDS]
        useful = (users[chosen] >= LEAST) & (apart[chosen] > 0)
        return cls(tuple(known[k] for k in np.sort(chosen[useful])))

    def mentions(self, texts: Texts) -> Mentions:
        if not self.words:  # as of a model that was never tuned: no text needs to be cut
            return Mentions.none(texts)
        place = {word: k for k, word in enumerate(self.words)}
        each = [sorted({place[word] for word in pieces(text) if word in place}) for text in texts.described]
        word = np.array([k for own in each for k in own], np.int64)
        return Mentions(word, np.cumsum([0, *map(len, each)]))
