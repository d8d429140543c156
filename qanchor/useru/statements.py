"""A phrase about a user, "Books a hotel.", and what D_future answers of users of whom it is not true.

Alone the phrase tells little: the answer tower has only ever read UserU's answers, and much of what it hears is what
they all share. Against its denials it tells (docs/search.md has the numbers).
"""

from __future__ import annotations

from dataclasses import dataclass

from qanchor.config import Config
from qanchor.useru.chinese import CHINESE
from qanchor.useru.english import ENGLISH
from qanchor.useru.phrases import Phrases

OTHERWISE = (0, 3)
"""What a denial says of all else: nor anything else; but other things a few times."""


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
        """The phrase as a sentence of its own."""
        stop = self.phrases.focus.answers[0][-1]
        return [_sentence(_bare(phrase) + stop)]

    def does_not(self, phrase: str) -> list[str]:
        """What is answered of users of whom it is not true, in each of D_future's ways."""
        return [
            _sentence(frame.format(concept=_bare(phrase), period=self.period, otherwise=self.phrases.otherwise[band]))
            for frame, band in zip(self.phrases.focus.nothing, OTHERWISE, strict=True)
        ]


def _bare(phrase: str) -> str:
    return phrase.strip().rstrip(".。")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
