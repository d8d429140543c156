"""Facts: what a lookback window says about one concept, absence included. Shapes: B users of a cohort."""

from __future__ import annotations

import numpy as np

from qanchor.useru.concepts import Concept
from qanchor.useru.evidence import NEVER, Bools, Evidence, Ints
from qanchor.useru.phrases import Fields, Voice, Words, say


def about(
    concept: Concept, events: Evidence, every: Evidence, priced: Bools, value: str, voice: Voice
) -> tuple[Bools, Fields]:
    """How often, how recently, what exactly, when in the day and the week, at what amounts, and which way it moves.

    `events` are those of `every` event that match the concept; those of them that are `priced` [E] have amounts of one
    meaning, called `value`. Returns who has any [B], and the fields of the sentence [B].
    """
    phrases = voice.phrases
    often = events.often()
    return often > NEVER, {
        "concept": concept.name,
        "days": str(events.days),
        "often": say(phrases.often, often),
        "otherwise": say(phrases.otherwise, every.often()),
        "ago": say(phrases.ago, events.recency()),
        "named": voice.naming(events),
        "when": when(events, voice),
        "amount": say(voice.bands, events.where(priced).amount(), phrases.pause + phrases.amount.format(value=value)),
        "trend": say(phrases.trend, events.trend(), phrases.pause),
    }


def when(events: Evidence, voice: Voice) -> Words:
    """[B] the quarter of the day and the side of the week that have most of the events, or nothing."""
    lead = voice.phrases.pause + voice.phrases.mostly
    parts = events.day_parts()
    clear = (parts.sum(1) >= 3) & (2 * parts.max(1) > parts.sum(1))
    side = week_side(events)
    words: Words = say(voice.phrases.part, np.where(clear, parts.argmax(1), -1), lead)
    words += say(voice.phrases.week, np.where(side == 2, -1, side), voice.phrases.pause)
    return words


def week_side(events: Evidence) -> Ints:
    """[B] band of the weekend's share of the events: at most 10%, 20%, 40%, 60%, or more; -1 below 5 events."""
    days = events.weekdays()
    total = days.sum(1)
    share = days[:, 5:].sum(1) * 10
    band = sum((share > total * tenth).astype(np.int64) for tenth in (1, 2, 4, 6))
    return np.where(total < 5, -1, band)
