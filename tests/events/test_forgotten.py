"""A forgotten user is out of events, texts and refused rows, and stays out whatever is ingested later."""

from __future__ import annotations

import polars as pl
import pytest
from events_world import bills, by_day, content, project, rejects, write

from qanchor.errors import DataError
from qanchor.events.forgotten import Forgotten, forget
from qanchor.events.ingest import ingest
from qanchor.events.partitions import Partitions

ROWS = bills(
    ("ann", "2025-02-01 10:00:00", "secret clinic", "health", 1.0),
    ("ann", "2025-02-02 10:00:00", "bakery", "food", 2.0),
    ("bob", "2025-02-02 11:00:00", "bakery", "food", 3.0),
    ("ann", "2025-02-03 11:00:00", None, "food", 3.0),
    ("bob", "2025-02-03 11:00:00", None, "food", 3.0),
    ("bob", "2025-02-03 12:00:00", "bank", "money", 3.0),
)


@pytest.fixture
def config(tmp_path):
    config = project(tmp_path, max_reject_rate=0.9)
    write(tmp_path / "logs" / "all.parquet", ROWS)
    ingest(config, tmp_path / "store")
    return config


def test_forgotten_and_ingested_again(config, tmp_path):
    store = tmp_path / "store"
    bob = [event for event in content(store) if event[0] == "bob"]
    assert {reject["content"]["user"] for reject in rejects(store)} == {"ann", "bob"}
    for _ in range(2):  # twice is once
        forget(store, ["ann"])
        assert content(store) == bob
        assert set(pl.read_parquet(store / "texts.parquet")["text"]) == {"bakery", "bank"}
        assert [reject["content"]["user"] for reject in rejects(store)] == ["bob"]
    assert not any(b"ann" in path.read_bytes() for path in store.rglob("*") if path.is_file())

    write(
        tmp_path / "logs" / "all.parquet",
        pl.concat([ROWS, bills(("carl", "2025-02-01 09:00:00", "bank", "money", 1.0))]),
    )
    report = ingest(config, store)
    assert (report.rows, report.rejects) == (7, {"forgotten user": 3, "template column missing": 1})
    assert {event[0] for event in content(store)} == {"bob", "carl"}
    assert "secret clinic" not in set(pl.read_parquet(store / "texts.parquet")["text"])
    assert [reject["content"]["user"] for reject in rejects(store)] == ["bob"]


def test_only_the_users_rows_go_and_the_counts_follow(config, tmp_path):
    days = by_day(tmp_path / "store")
    forget(tmp_path / "store", ["bob"])
    after = by_day(tmp_path / "store")
    assert after == {day: own for day, events in days.items() if (own := [e for e in events if e[0] != "bob"])}
    store = Partitions.open(tmp_path / "store")
    assert sum(store.day(day).rows for day in store.days()) == 2


def test_the_list_tells_nobody_who_is_on_it(tmp_path):
    listed = Forgotten(tmp_path)
    assert "ann" not in listed
    listed.add(["ann", "bob"])
    again = Forgotten(tmp_path)
    assert ("ann" in again, "carl" in again) == (True, False)
    assert again.among(pl.Series(["carl", "bob", None])) == ["bob"]
    assert "ann" not in (tmp_path / "forgotten.json").read_text()
    with pytest.raises(DataError, match="no event store"):
        forget(tmp_path, ["ann"])
