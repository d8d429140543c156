"""UserU: for every (user, as_of) questions and answers about the future and about the past (section 3.1).

Contrastive learning needs users that answer the same question, so keys are put into cohorts by a stable hash, and all
users of a cohort are asked the same topics, each user in a phrasing of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from qanchor.config import Config
from qanchor.errors import DataError
from qanchor.events.profiles import Profiles
from qanchor.useru.cohorts import Interviewer
from qanchor.useru.phrases import speak, stable_hash

COHORT = 256
"""Keys that share their topics, about."""
SHARD = 500_000
"""Rows of a Parquet file."""


def build(
    config: Config,
    past: Profiles,
    future: Profiles,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> pl.DataFrame:
    """Questions and answers for every key: user_id, as_of, source, topic, query, answer, cohort.

    `past` and `future` hold the lookback and the prediction windows of the same keys. Rows are grouped by key, in the
    order of `past`; equal inputs and seeds give equal rows. Of a key's `config.useru.pairs` rows one is D_future
    (source and topic "future"), two fifths of the others each ask about the future ("future", "future/<concept>") and
    about the past ("uqa", "concept/<concept>") of concepts, and the rest are habits ("uqa", "habit/<name>"). Of keys
    without any future event only the share `config.useru.empty_future` (by the key's hash) has a D_future row; their
    focused futures stay, since "never" is what the other users' answers must be told from. `progress` is told how
    many more keys are done.

    Raises:
        DataError: `past` and `future` are not of the same keys and text table, or there are no keys.
    """
    _check(past, future)
    interviewer = Interviewer(config, past, future, seed)
    names = [f"{user}|{as_of}" for user, as_of in zip(past.user_ids, past.as_of, strict=True)]
    order = np.argsort(np.array([stable_hash(name) for name in names], np.uint64), kind="stable")
    kept = np.array([stable_hash(f"{name}|kept") < config.useru.empty_future * 2**64 for name in names])
    frames = []
    for cohort, rows in enumerate(np.array_split(order, max(1, round(len(past) / COHORT)))):
        for slot, (source, name, topic, some, fields) in enumerate(interviewer.ask(rows, cohort)):
            number = np.array([stable_hash(f"{names[row]}|{name}") for row in rows], np.uint64)
            query, answer = speak(topic, number, stable_hash(name), some, fields)
            frame = pl.DataFrame(
                {"key": rows, "query": query.tolist(), "answer": answer.tolist()},
                schema={"key": pl.Int64, "query": pl.String, "answer": pl.String},
            ).with_columns(
                pl.lit(slot).alias("slot"),
                pl.lit(source).alias("source"),
                pl.lit(name).alias("topic"),
                pl.lit(cohort).alias("cohort"),
            )
            frames.append(frame.filter(some | kept[rows]) if name == "future" else frame)
        if progress:
            progress(len(rows))
    pairs = pl.concat(frames).sort("key", "slot")
    keys = past.keys()[pairs["key"]]
    return pl.concat([keys, pairs.select("source", "topic", "query", "answer", "cohort")], how="horizontal")


def write(frame: pl.DataFrame, folder: Path) -> dict[str, Any]:
    """Write the pairs as Parquet shards, and `card.json`, which is also returned; what was there before is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("part-*.parquet"), folder / "card.json"):
        old.unlink(missing_ok=True)
    for number, start in enumerate(range(0, max(1, len(frame)), SHARD)):
        frame.slice(start, SHARD).write_parquet(folder / f"part-{number:04d}.parquet")
    told = card(frame)
    (folder / "card.json").write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return told


def read(folder: Path) -> pl.DataFrame:
    """The pairs that `write` left in a folder.

    Raises:
        DataError: there is no card, so that no write was ever finished there.
    """
    if not (folder / "card.json").exists():
        raise DataError(f"no finished UserU data set in {folder} (card.json is missing): build it with `qanchor useru`")
    return pl.concat([pl.read_parquet(part) for part in sorted(folder.glob("part-*.parquet"))])


def card(frame: pl.DataFrame) -> dict[str, Any]:
    """The data card: pairs, keys, cohorts, lengths; by kind of topic also how far the answers tell users apart.

    A kind is `source` and the topic without its last part ("future", "future/...", "concept/...", "habit/activity").
    `distinct` is the share of different answers among a topic's answers in one cohort, averaged over them by size;
    `commonest` the share of answers that only repeat the most common one of their topic and cohort.
    """
    kind = pl.when(pl.col("topic").str.contains("^(future|concept)/")).then(
        pl.col("topic").str.extract("^([^/]+/)") + "..."
    )
    groups = (
        frame.with_columns(kind=kind.otherwise(pl.col("topic")))
        .group_by("source", "kind", "topic", "cohort")
        .agg(
            pairs=pl.len(),
            distinct=pl.col("answer").n_unique(),
            commonest=pl.col("answer").unique_counts().max(),
            query_words=_words("query").sum(),
            answer_words=_words("answer").sum(),
        )
    )
    kinds = (
        groups.group_by("source", "kind")
        .agg(pl.col("topic").n_unique().alias("topics"), pl.col("pairs").sum(), *map(_share, SHARES))
        .sort("source", "kind")
    )
    return {
        "pairs": len(frame),
        "keys": frame.select("user_id", "as_of").n_unique(),
        "cohorts": frame["cohort"].n_unique(),
        "topics": frame["topic"].n_unique(),
        "distinct_answers": frame["answer"].n_unique(),
        "kinds": kinds.to_dicts(),
    }


SHARES = ("distinct", "commonest", "query_words", "answer_words")


def _share(column: str) -> pl.Expr:
    return (pl.col(column).sum() / pl.col("pairs").sum()).round(3)


def _words(column: str) -> pl.Expr:
    """Words of Latin letters and numbers, and Chinese characters."""
    return pl.col(column).str.count_matches(r"[\u{4e00}-\u{9fff}]|[^\s\u{4e00}-\u{9fff}]+")


def _check(past: Profiles, future: Profiles) -> None:
    if not len(past):
        raise DataError("no keys to build UserU for: ask for at least one (user_id, as_of)")
    same = len(past) == len(future) and (past.user_ids == future.user_ids).all() and (past.as_of == future.as_of).all()
    if not same:
        raise DataError(
            f"lookback windows of {len(past)} keys and prediction windows of {len(future)} keys do not match: "
            "read both with the same keys in the same order"
        )
    if past.texts is not future.texts and not np.array_equal(past.texts.ids, future.texts.ids):
        raise DataError(
            f"lookback and prediction windows have text tables of {len(past.texts)} and {len(future.texts)} texts: "
            "read both from one store"
        )
