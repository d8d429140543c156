"""Small corpora that the tests of training share."""

from __future__ import annotations

import numpy as np
import polars as pl
from conftest import random_profiles

from qanchor.config import Pretrain
from qanchor.training.pairs import Pairs
from qanchor.training.pretrain import Corpus
from qanchor.training.ranks import ALONE

SETTINGS = Pretrain(align_steps=6, steps=6, batch=8, pairs=2, lr=3e-3, validate_every=3)


def userqa(profiles) -> pl.DataFrame:
    """One question on each of three words: how many events name it."""
    rows = []
    keys = profiles.keys()
    for n, (user, as_of) in enumerate(keys.iter_rows()):
        own = profiles.text[profiles.offsets[n] : profiles.offsets[n + 1]]
        for word in ("coffee", "concert", "rent"):
            times = sum(word in profiles.texts.text[t] for t in own)
            rows.append((user, as_of, "uqa", word, f"how often does the user {word}?", f"{word} {times} times", 0))
    schema = ["user_id", "as_of", "source", "topic", "query", "answer", "cohort"]
    return pl.DataFrame(rows, schema=schema, orient="row", schema_overrides={"as_of": pl.Datetime("us")})


def corpora(towers, ranks=ALONE, users=40):
    """Training and validation users of a rank."""
    made = []
    for seed in (1, 2):
        everyone = random_profiles(users, seed)
        keys = everyone.keys()
        own = everyone.take(np.flatnonzero(ranks.own(keys["user_id"])))
        texts = towers.text_encoder.index(everyone.texts.text)
        made.append(Corpus.of(towers, own, Pairs(userqa(everyone), keys, own), np.array([8, 6]), texts))
    return made
