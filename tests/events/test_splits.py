from __future__ import annotations

import datetime as dt
from collections import Counter
from pathlib import Path

import pytest
from events_world import WINDOWS, project, some_bills, write

from qanchor.config import Users
from qanchor.errors import ConfigError
from qanchor.events.ingest import ingest
from qanchor.events.splits import part, requests, split_of
from qanchor.events.store import EventStore

IDS = [f"user-{n}" for n in range(5_000)]


def test_shares_are_kept_and_users_stay() -> None:
    users = Users(validation=0.1, test=0.3)
    split = split_of(IDS, users)
    counts = Counter(split.tolist())
    assert abs(counts["test"] / 5_000 - 0.3) < 0.03
    assert abs(counts["validation"] / 5_000 - 0.1) < 0.02
    assert (split_of(IDS[::-1][:100], users) == split[::-1][:100]).all()
    with pytest.raises(ConfigError, match="sum must be below 1"):
        split_of(IDS, Users(validation=0.5, test=0.5))


def test_a_smaller_part_belongs_to_a_larger_one_and_says_nothing_of_the_split() -> None:
    tenth, half = part(IDS, 0.1), part(IDS, 0.5)
    assert abs(tenth.mean() - 0.1) < 0.02
    assert (half | ~tenth).all()
    assert part(IDS, 1.0).all()
    tested = split_of(IDS, Users(validation=0.1, test=0.3)) == "test"
    assert abs(tested[half].mean() - 0.3) < 0.03


@pytest.mark.parametrize("limit", [None, 60])
def test_requests(tmp_path: Path, limit: int | None) -> None:
    bills = some_bills(600, "2025-02-20", 4)
    march = some_bills(100, "2025-03-20", 4)
    renamed = [frame.with_columns(user="u" + frame["amount"].cast(str)) for frame in (bills, march)]
    write(tmp_path / "logs/a.parquet", renamed[0])
    write(tmp_path / "logs/b.parquet", renamed[1])
    users = {"validation": 0.2, "test": 0.4} | ({"limit": limit} if limit else {})
    config = project(tmp_path, users=users, windows={**WINDOWS, "lookback_days": 15})
    ingest(config, tmp_path / "store")
    store = EventStore.open(config, tmp_path / "store")
    asked = requests(config, store)
    train_day, test_day = dt.datetime(2025, 3, 1), dt.datetime(2025, 4, 1)
    assert set(asked["as_of"].to_list()) == {train_day, test_day}
    assert (split_of(asked["user_id"], config.users) == asked["split"].to_numpy()).all()
    assert not asked.is_duplicated().any()
    by_split = {split[0]: set(frame["user_id"]) for split, frame in asked.group_by("split")}
    assert set(asked.filter(split="test")["as_of"]) == {test_day}
    assert by_split["test"] <= set(store.population(test_day.date()))
    if limit is None:
        early = set(store.population(train_day.date()))
        assert by_split["train"] | by_split["validation"] == {u for u in early if split_of([u], config.users) != "test"}
        assert len(early) == 600
    else:
        assert 15 < len(by_split["train"]) < 35
        assert len(by_split["train"]) + len(by_split["validation"]) < limit
        assert 12 < len(by_split["test"]) < 40
    assert requests(config, store).equals(asked)
