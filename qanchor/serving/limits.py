"""How often each principal may ask: a token bucket each, in bounded memory."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

BUCKETS = 10_000
OVERFLOW = ""
"""The bucket that newcomers share while all others are in use: a crowd of names buys nobody a fresh bucket."""


class Limits:
    """A bucket holds `burst` tokens and gains `rate` a second. Safe between threads.

    Kept of a bucket is only the moment at which it will be full again; one that is full is not kept at all.
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.burst, self._clock = rate, burst, clock
        self._full_at: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, who: str, cost: float = 1.0) -> float:
        """0.0 and `cost` is taken; else nothing is, and the seconds until it could be (for Retry-After).

        A cost above `burst` is granted to a full bucket, which then owes the rest.
        """
        with self._lock:
            now = self._clock()
            self._drop_full(now)
            if who not in self._full_at and len(self._full_at) >= BUCKETS:
                who = OVERFLOW
            full_at = max(self._full_at.get(who, now), now)
            wait = full_at - now - max(self.burst - cost, 0.0) / self.rate
            if wait > 0:
                return wait
            self._full_at[who] = full_at + cost / self.rate
            self._full_at.move_to_end(who)
            return 0.0

    def _drop_full(self, now: float) -> None:
        """The least recently granted first; a full one behind a fuller queue waits its turn."""
        while self._full_at and next(iter(self._full_at.values())) <= now:
            self._full_at.popitem(last=False)
