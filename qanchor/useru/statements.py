"""A phrase about a user as D_future would put it, "A few times, from early on: books a hotel.", and its denial.

The answer tower has only ever read UserU's answers. Put their way, a phrase is told from its denial; as a bare sentence
it is not (docs/search.md has the numbers).
"""

from __future__ import annotations

from dataclasses import dataclass

from qanchor.config import Config
from qanchor.useru.chinese import CHINESE
from qanchor.useru.english import ENGLISH
from qanchor.useru.phrases import Phrases

YES = ((3, 3), (1, 1))
"""How often, and when: a few times from early on; once, in the middle of the period."""


@dataclass(frozen=True)
class Framing:
    phrases: Phrases
    period: str
    """The prediction window in words."""

    @classmethod
    def of(cls, config: Config) -> Framing:
        phrases = ENGLISH if config.useru.language == "en" else CHINESE
        return cls(phrases, phrases.period(config.windows.predict_days))

    def happens(self, phrase: str) -> list[str]:
        """The phrase as answers of users of whom it is true."""
        frame, words = self.phrases.focus.answers[0], self.phrases
        return [
            _sentence(frame.format(often=words.often[often], onset=words.onset[onset], named=_bare(phrase)))
            for often, onset in YES
        ]

    def does_not(self, phrase: str) -> list[str]:
        """And as the answer of users of whom it is not: like nearly all else."""
        frame, words = self.phrases.focus.nothing[0], self.phrases
        return [_sentence(frame.format(concept=_bare(phrase), period=self.period, otherwise=words.otherwise[0]))]


def _bare(phrase: str) -> str:
    return phrase.strip().rstrip(".。")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
