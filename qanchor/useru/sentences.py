"""Sentences: answers read back, to find out what they claim.

A claim is what one field of a frame may say if it is to be true. `reads` follows every way in which an answer can be
cut into the frame's fields at once: texts may hold commas, colons and whole clauses, so that the first cut need not be
the right one. `Grammar` parses an answer that no frame reads truly, by the language alone, to say what is wrong.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from qanchor.useru.phrases import Frames, Voice


class Claim(Protocol):
    """What one field may say; its `str` is what the events say."""

    def ends(self, answer: str, start: int) -> list[int]:
        """Where in the answer the field may end if it starts at `start` and is true; nowhere if it isn't."""


Claims = Mapping[str, Claim]
"""By the names of the fields."""


@dataclass(frozen=True, slots=True)
class OneOf:
    """Any of some words; more than one where the events are tied."""

    words: tuple[str, ...]

    def ends(self, answer: str, start: int) -> list[int]:
        if start:
            return [start + len(word) for word in self.words if answer.startswith(word, start)]
        return [end for word in self.words for end in _after(answer, start, word)]

    def __str__(self) -> str:
        return " or ".join(map(repr, self.words)) or "nothing"


@dataclass(frozen=True, slots=True)
class Ranking:
    """Different words in the order of their scores, in a frame with places {0}, {1}, {2}.

    Words with the same score may stand in any order, and for one another.
    """

    frame: str
    words: Sequence[tuple[float, str]]
    """Score and word, best first; the frame has no more places, unless there is nothing at all."""

    def ends(self, answer: str, start: int) -> list[int]:
        states: list[tuple[int, tuple[str, ...]]] = [(start, ())]
        for literal, place in fields(self.frame):
            words = self._of_rank(int(place)) if place else [""]
            states = [
                (end, (*used, word) if word else used)
                for at, used in states
                for word in words
                if word not in used
                for end in _after(answer, at, literal + word)
            ]
        return [end for end, _ in states]

    def _of_rank(self, place: int) -> list[str]:
        return [word for score, word in self.words if score == self.words[place][0]] if place < len(self.words) else []

    def __str__(self) -> str:
        return repr(self.frame.format(*(word for _, word in self.words))) if self.words else "nothing"


@dataclass(frozen=True, slots=True)
class Listing:
    """One or more different words in any order."""

    words: Sequence[str]
    between: str

    def ends(self, answer: str, start: int) -> list[int]:
        found: list[int] = []
        states: list[tuple[int, tuple[str, ...]]] = [(start, ())]
        while states:
            states = [
                (end, (*used, word))
                for at, used in states
                for word in self.words
                for end in _after(answer, at, self.between + word if used else word)
                if word not in used
            ]
            found += (end for end, _ in states)
        return found

    def __str__(self) -> str:
        return repr(self.between.join(self.words))


Parts = Sequence[tuple[str, str]]
"""The literal texts of a frame, each with the field after it; "" after the last."""


def reads(parts: Parts, answer: str, claims: Claims) -> bool:
    """Whether the answer can be read as a frame with every claim true."""
    ends = [0]
    for literal, field in parts:
        if literal:
            ends = [end for start in ends for end in _after(answer, start, literal)]
        if field:
            ends = [end for start in ends for end in claims[field].ends(answer, start)]
        if len(ends) != 1:
            if not ends:
                return False
            ends = list(set(ends))
    return len(answer) in ends


def filled(frame: str, fixed: Mapping[str, str]) -> Parts:
    """The parts of a frame, with some fields filled in."""
    parts, text = [], ""
    for literal, field in fields(frame):
        text += literal
        if field in fixed:
            text += fixed[field]
        else:
            parts.append((text, field))
            text = ""
    return parts


@cache
def fields(frame: str) -> Parts:
    """The parts of a frame, the last without a field."""
    return tuple((literal, field or "") for literal, field, _, _ in string.Formatter().parse(f"{frame}{{}}"))


class Grammar:
    """Regular expressions of a language's frames: tables by their words, numbers by digits, texts as anything."""

    def __init__(self, voice: Voice) -> None:
        phrases = voice.phrases
        band, number = _any(voice.bands), "[0-9]+"
        self.field = {name: _any(getattr(phrases, name)) for name in TABLES} | {
            "when": _maybe(phrases.pause + phrases.mostly, phrases.part) + _maybe(phrases.pause, phrases.week),
            "amount": f"(?:{re.escape(phrases.pause)}{_open(phrases.amount)}{band})?",
            "trend": _maybe(phrases.pause, phrases.trend) + "|" + _any(phrases.trend),
            "first": _any(phrases.part),
            "second": _maybe(phrases.next, phrases.part),
            "rarely": _maybe(phrases.pause + phrases.rarely, phrases.part),
            "money": _maybe(phrases.pause + phrases.money, phrases.third),
            **dict.fromkeys(("busiest", "quietest"), _any(phrases.weekday)),
            **dict.fromkeys(("events", "typical", "largest", "total", "active", "distinct"), band),
            **dict.fromkeys(("days", "half", "date"), number),
        }

    def wrong(self, frames: Sequence[Parts], answer: str, claims: Claims) -> str:
        """The claims that are not true, in the frame that leaves fewest; "cannot be parsed" if no frame fits."""
        found = [wrong for parts in frames if (wrong := self._wrong(parts, answer, claims))]
        return "; ".join(sorted(found, key=len)[0]) if found else "cannot be parsed"

    def _wrong(self, parts: Parts, answer: str, claims: Claims) -> list[str]:
        names = [field for _, field in parts if field]
        groups = ((literal, f"({self.field.get(field, '.+?')})" if field else "") for literal, field in parts)
        pattern = "".join(re.escape(literal) + group for literal, group in groups)
        match = re.fullmatch(pattern, answer, re.IGNORECASE | re.DOTALL)
        return [
            f"{field}: says {match[n] or 'nothing'!r}, the events say {claims[field]}"
            for n, field in enumerate(names, 1)
            if match and match.end(n) not in claims[field].ends(answer, match.start(n))
        ]


TABLES = ("often", "otherwise", "ago", "onset", "week", "third", "share", "level", "gap", "rhythm", "repeats")
"""Fields that are words of the table of the same name."""


def _any(table: Frames) -> str:
    """The longest first, since a regular expression takes the first that fits."""
    return "(?:" + "|".join(re.escape(word) for word in sorted(table, key=len, reverse=True)) + ")"


def _maybe(lead: str, table: Frames) -> str:
    return f"(?:{re.escape(lead)}{_any(table)})?"


def _open(frame: str) -> str:
    """A frame whose fields may be anything."""
    return "".join(re.escape(literal) + (".+?" if field else "") for literal, field in fields(frame))


def _after(answer: str, start: int, word: str) -> list[int]:
    """Where the word ends if it stands at `start`; a sentence starts with a capital."""
    word = word if start else word[:1].upper() + word[1:]
    return [start + len(word)] if answer.startswith(word, start) else []
