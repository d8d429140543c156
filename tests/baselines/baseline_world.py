"""A world in which there is something to learn: users have a topic, a topic has 25 names that share no letters' order.

Who only sees names cannot tell which belong together; who watches what follows what can.
"""

from __future__ import annotations

import numpy as np

from qanchor.events.profiles import DAY, Profiles, Texts

AS_OF = 20_000 * DAY
TOPICS, NAMES, LOYALTY = 4, 25, 0.75


def world(users: int = 500, seed: int = 0) -> tuple[Profiles, Profiles, np.ndarray]:
    """Lookback windows of 90 days, prediction windows of 30, and each user's topic [N]; the last user has no events."""
    names = np.random.default_rng(99)
    words = ["".join(names.choice(list("abcdefghijklmnopqrstuvwxyz"), 7)) for _ in range(TOPICS * NAMES)]
    kinds = [("bill", "mini")[t % 2] for t in range(TOPICS * NAMES)]
    categories = [f"aisle {t // NAMES}" for t in range(TOPICS * NAMES)]
    texts = Texts(np.arange(len(words), dtype=np.uint64), kinds, categories, words)
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, TOPICS, users)
    windows = [_window(rng, topic, texts, mean, *days) for mean, days in ((10, (-90, 0)), (5, (0, 30)))]
    return windows[0], windows[1], topic


def _window(rng: np.random.Generator, topic: np.ndarray, texts: Texts, mean: int, first: int, last: int) -> Profiles:
    users = len(topic)
    counts = 3 + rng.poisson(mean, users)
    counts[-1] = 0
    time = [np.sort(AS_OF + rng.integers(first * DAY, last * DAY, count)) for count in counts]
    owner = np.repeat(np.arange(users), counts)
    loyal = rng.random(len(owner)) < LOYALTY
    of = np.where(loyal, topic[owner], rng.integers(0, TOPICS, len(owner)))
    text = of * NAMES + rng.integers(0, NAMES, len(owner))
    modality = np.array([("bill", "mini").index(kind) for kind in texts.modality], np.uint8)
    return Profiles(
        np.array([f"u{n}" for n in range(users)], object),
        np.full(users, AS_OF),
        np.concatenate([[0], np.cumsum(counts)]),
        np.concatenate(time),
        modality[text],
        text.astype(np.int32),
        np.where(rng.random(len(owner)) < 0.5, np.nan, rng.normal(0, 20, len(owner))).astype(np.float32),
        ("bill", "mini"),
        texts,
    )
