"""What the LLM was asked and what it cost, counted; and a budget that is never passed."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from qanchor.config import LLM
from qanchor.errors import BudgetError, ConfigError

MILLION = 1_000_000


def roughly(text: str) -> int:
    """Tokens of a text, about: four letters of English, one Chinese character."""
    ascii_letters = sum(letter < "\x80" for letter in text)
    return math.ceil(ascii_letters / 4) + len(text) - ascii_letters


@dataclass
class Tally:
    """What some requests took; tallies add up."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    """By reason: "rate limit", "server error", "timeout", "connection", "truncated", "malformed", "content filter"."""

    def add(self, other: Tally) -> None:
        self.requests += other.requests
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.retries.update(other.retries)

    def cost(self, settings: LLM) -> float:
        """In the currency of the prices."""
        return (self.prompt_tokens * settings.price_in + self.completion_tokens * settings.price_out) / MILLION

    def told(self) -> dict[str, Any]:
        """As a plain dictionary, for JSON."""
        return {**vars(self), "retries": dict(sorted(self.retries.items()))}


class Ledger:
    """The spending of all runs over one journal, and what those in flight may still spend.

    Raises:
        ConfigError: there is a budget but no price.
    """

    def __init__(self, settings: LLM, spent: Tally) -> None:
        if settings.budget is not None and not settings.price_in + settings.price_out:
            raise ConfigError(
                f"a budget of {settings.budget:g} without prices would never end: set `price_in` and `price_out` "
                "(per million tokens) under `useru.llm`"
            )
        self.settings, self.spent = settings, spent
        self._reserved: list[float] = []
        self._changed = asyncio.Condition()

    @property
    def cost(self) -> float:
        """Spent so far by all that are not in flight."""
        return self.spent.cost(self.settings)

    async def admit(self, worst: Tally) -> float:
        """Wait until `worst` fits into the budget beside what is spent and reserved; returns what is now reserved.

        Raises:
            BudgetError: it will not fit, however what is in flight turns out.
        """
        price = worst.cost(self.settings)
        async with self._changed:
            await self._changed.wait_for(lambda: self._fits(price) or not self._reserved)
            if not self._fits(price):
                raise BudgetError(
                    f"stopped before the budget of {self.settings.budget:g} is passed: {self.cost:.4f} is spent and "
                    f"the next user could cost {price:.4f}; what is done is kept: raise `budget` and run again"
                )
            self._reserved.append(price)
        return price

    async def settle(self, price: float, tally: Tally) -> None:
        """Replace what `admit` reserved by what was really spent."""
        async with self._changed:
            self._reserved.remove(price)
            self.spent.add(tally)
            self._changed.notify_all()

    def _fits(self, price: float) -> bool:
        budget = self.settings.budget
        return budget is None or self.cost + sum(self._reserved) + price <= budget
