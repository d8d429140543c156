"""The data set on disk: Parquet shards and their data card."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from qanchor.errors import DataError


class Part(NamedTuple):
    """What is built and written at a time."""

    pairs: pl.DataFrame
    """user_id, as_of, source, topic, query, answer, support, cohort."""
    keys: int
    refused: Counter[str]
    """Pairs that the checker could not confirm, by kind of topic and the claim that failed."""


def write(parts: Iterable[Part], folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Write the pairs as Parquet shards, then `card.json`: `facts` and `card`; it is also returned.

    What was there before is replaced; without a card, nothing is taken for finished.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in (folder / "card.json", *folder.glob("part-*.parquet")):
        old.unlink(missing_ok=True)
    refused: Counter[str] = Counter()
    for number, part in enumerate(parts):
        part.pairs.write_parquet(folder / f"part-{number:04d}.parquet")
        refused.update(part.refused)
    told = facts | card(_scan(folder)) | {"refused": dict(sorted(refused.items()))}
    (folder / "card.json").write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return told


def read(folder: Path, columns: tuple[str, ...] = ()) -> pl.DataFrame:
    """The pairs that `write` left in a folder, all columns or some.

    Raises:
        DataError: there is no card, so that no write was ever finished there.
    """
    return scan(folder).select(columns or "*").collect()


def scan(folder: Path) -> pl.LazyFrame:
    """Like `read`, without reading yet. Raises DataError likewise."""
    if not (folder / "card.json").exists():
        raise DataError(f"no finished UserU data set in {folder} (card.json is missing): build it with `qanchor useru`")
    return _scan(folder)


def _scan(folder: Path) -> pl.LazyFrame:
    return pl.concat([pl.scan_parquet(part) for part in sorted(folder.glob("part-*.parquet"))])


def card(pairs: pl.LazyFrame) -> dict[str, Any]:
    """What the pairs are: numbers, lengths, topics, duplicates, and how far the answers tell users apart.

    By kind of topic ("future", "future/...", "concept/...", "life/...", "habit/activity") and, for the pool's topics,
    one by one: `distinct` is the share of different answers among those to one question (of one cohort, where a cohort
    is asked alike), averaged by size; `commonest` the share of answers that only repeat the most common one of them.
    `duplicates` is the share of rows whose question and answer both stood in an earlier row.
    """
    groups = (
        pairs.with_columns(kind=pl.col("topic").str.replace("^(future|concept|life)/.*", "${1}/..."))
        .group_by("source", "kind", "topic", "cohort")
        .agg(
            pairs=pl.len(),
            distinct=pl.col("answer").n_unique(),
            commonest=pl.col("answer").unique_counts().max(),
            query_words=_words("query").sum(),
            answer_words=_words("answer").sum(),
        )
        .collect()
    )
    kinds = groups.group_by("source", "kind").agg(pl.col("topic").n_unique().alias("topics"), *SHARES)
    life = groups.filter(pl.col("kind") == "life/...").group_by("topic").agg(SHARES)
    whole = pairs.select(
        pairs=pl.len(),
        keys=pl.struct("user_id", "as_of").n_unique(),
        cohorts=pl.col("cohort").n_unique(),
        topics=pl.col("topic").n_unique(),
        distinct_answers=pl.col("answer").n_unique(),
        duplicates=(1 - pl.struct("query", "answer").n_unique() / pl.len()).round(3),
    )
    lengths = pairs.select(
        pl.concat_list(_words(column).quantile(q) for q in (0.0, 0.5, 0.95, 1.0)).alias(f"{column}_words")
        for column in ("query", "answer")
    )
    return {
        **whole.collect().to_dicts()[0],
        "lengths": {"quantiles": ["0", ".5", ".95", "1"], **lengths.collect().to_dicts()[0]},
        "kinds": kinds.sort("source", "kind").to_dicts(),
        "pool": life.sort("pairs", "topic", descending=[True, False]).to_dicts(),
    }


def _words(column: str) -> pl.Expr:
    """Words of Latin letters and numbers, and Chinese characters."""
    return pl.col(column).str.count_matches(r"[\u{4e00}-\u{9fff}]|[^\s\u{4e00}-\u{9fff}]+")


SHARES = (
    pl.col("pairs").sum(),
    *(
        (pl.col(column).sum() / pl.col("pairs").sum()).round(3)
        for column in ("distinct", "commonest", "query_words", "answer_words")
    ),
)
