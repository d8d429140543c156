"""What must not leave the house is blotted out of a text: what the config's patterns match, and user ids."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

BLOT = "[redacted]"
LONG = 6
"""An id of so many characters is an id wherever it stands; a shorter one ("7") is a word in its own user's texts."""
LONGEST = 200
"""Characters of a text that are sent."""
CACHE = 65_536
"""Cleaned texts that are remembered."""


class Redactor:
    """Cleans texts for an LLM; ids are compared without regard to case."""

    def __init__(self, patterns: Iterable[str], user_ids: Iterable[str]) -> None:
        self._patterns = [re.compile(pattern) for pattern in patterns]
        self._ids = {user.casefold() for user in user_ids if len(user) >= LONG}
        self._lengths = sorted({len(user) for user in self._ids})
        self._blot = lru_cache(CACHE)(self._blot_out)

    def clean(self, text: str, user: str = "") -> tuple[str, int]:
        """A text on one line, cut to `LONGEST`, and how often something was blotted out; `user` is whose text it is."""
        text, blots = self._blot(text)
        if 0 < len(user) < LONG:
            alone = rf"(?<![A-Za-z0-9]){re.escape(user)}(?![A-Za-z0-9])"
            text, found = re.subn(alone, BLOT, text, flags=re.IGNORECASE)
            blots += found
        # cut last: a cut could split what a pattern looks for
        return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…", blots

    def _blot_out(self, text: str) -> tuple[str, int]:
        text, blots = " ".join(text.split()), 0  # one line, since the lines of a profile are numbered
        for pattern in self._patterns:
            text, found = pattern.subn(BLOT, text)
            blots += found
        for user in self._ids_in(text.casefold()):
            text, found = re.subn(re.escape(user), BLOT, text, flags=re.IGNORECASE)
            blots += found
        return text, blots

    def _ids_in(self, text: str) -> set[str]:
        windows = (text[start : start + size] for size in self._lengths for start in range(len(text) - size + 1))
        return {window for window in windows if window in self._ids}
