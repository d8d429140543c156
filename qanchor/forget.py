"""Forgetting users: their events, profiles, embeddings, pairs of UserU and refused rows; and the proof of it.

What was learned from them stays in the weights of models that are trained already, and the raw logs are the team's own.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qanchor.daily import Daily
from qanchor.events import atomic, covered, forgotten, rejects
from qanchor.events.cover import CLEAR, Cover
from qanchor.events.partitions import Partitions
from qanchor.events.profile_store import ProfileShard, shard_path
from qanchor.inference.snapshot import read_reasons, write_reasons
from qanchor.storage import Place


@dataclass(frozen=True)
class Trace:
    """Rows of the users in one kind of place, before and after."""

    place: str
    before: int
    after: int


def forget(daily: Daily, user_ids: Sequence[str]) -> list[Trace]:
    """Forget users wherever a project keeps something of them; twice is once, and a rerun completes a killed one.

    Returns:
        what was found and, counted anew after all is done, what is left: nothing.

    Raises:
        DataError: there is no event store, or an ingest is at work.
    """
    store = daily.project.storage / "store"
    before = _count(daily, user_ids)
    forgotten.forget(store, user_ids)
    for path, cover in _tables(daily):
        _rewrite_table(path, cover, user_ids)
    for place in daily.snapshots.glob("*/*.lance"):  # made of the tables: `embed --sink lance` makes them again
        if isinstance(place, Path):
            shutil.rmtree(place)
        else:
            place.rmdir(recursive=True)
    for path in _interviews(daily):
        lines = path.read_bytes().splitlines(keepends=True)
        atomic.write(path, b"".join(line for line in lines if json.loads(line).get("user_id") not in user_ids))
    for path in _aside(daily):
        cover = daily.covers(path.stem)
        reasons = read_reasons(path, cover)
        write_reasons(path, {user: why for user, why in reasons.items() if user not in user_ids}, cover)
    for number in _refreshed(daily):
        with ProfileShard.at(daily.kept, number, daily.covers) as shard:
            with shard.writing():
                shard.drop(user_ids)
            shard.scrub()
    after = _count(daily, user_ids)
    return [Trace(place, before[place], after[place]) for place in before]


def _count(daily: Daily, user_ids: Sequence[str]) -> dict[str, int]:
    """Place -> rows of these users there."""
    store, theirs = Partitions.open(daily.project.storage / "store"), pl.col("user_id").is_in(user_ids)
    profiles = 0
    for number in _refreshed(daily):
        with ProfileShard.at(daily.kept, number, daily.covers) as shard:
            profiles += sum(shard.events(user) is not None for user in user_ids)
    return {
        "events": sum(
            len(store.read(day, shard).filter(theirs)) for day in store.days() for shard in store.day(day).files
        ),
        "refused rows": rejects.count(store.root / "rejects", user_ids),
        "profiles": profiles,
        "embeddings and pairs": sum(
            pc.sum(_is_theirs(path, cover, user_ids)).as_py() or 0 for path, cover in _tables(daily)
        ),
        "set aside": sum(
            user in user_ids for path in _aside(daily) for user in read_reasons(path, daily.covers(path.stem))
        ),
        "interviews by an LLM": sum(
            json.loads(line).get("user_id") in user_ids
            for path in _interviews(daily)
            for line in path.read_bytes().splitlines()
        ),
    }


def _tables(daily: Daily) -> list[tuple[Place, Cover]]:
    """Parquet with a row or more a user: embeddings, and the pairs of UserU; and what covers each."""
    embeddings = [(path, daily.covers(path.stem)) for path in daily.snapshots.glob("**/*.parquet")]
    return [*embeddings, *((path, CLEAR) for path in (daily.project.out / "useru").glob("**/*.parquet"))]


def _aside(daily: Daily) -> list[Place]:
    return [*daily.snapshots.glob("*/_set-aside/*.json")]


def _interviews(daily: Daily) -> list[Path]:
    return [*(daily.project.out / "useru").glob("**/*.jsonl")]


def _refreshed(daily: Daily) -> list[int]:
    """Shards that have profiles."""
    return [n for n in range(daily.project.config.shards) if shard_path(daily.kept, n).exists()]


def _is_theirs(path: Place, cover: Cover, user_ids: Sequence[str]) -> pa.ChunkedArray:
    users = pq.read_table(covered.whole(path, cover), columns=["user_id"])["user_id"]
    return pc.is_in(users, value_set=pa.array(user_ids, users.type))


def _rewrite_table(path: Place, cover: Cover, user_ids: Sequence[str]) -> None:
    """The same file, with what it says of itself, without these users."""
    theirs = _is_theirs(path, cover, user_ids)
    if pc.any(theirs).as_py():
        sink = io.BytesIO()
        pq.write_table(pq.read_table(covered.whole(path, cover)).filter(pc.invert(theirs)), sink, compression="zstd")
        covered.write(path, sink.getvalue(), cover)
