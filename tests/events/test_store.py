from __future__ import annotations

import datetime as dt
import functools
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from events_world import bills, content, project, some_bills, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qanchor.config import Config
from qanchor.errors import DataError
from qanchor.events import store as store_module
from qanchor.events.ingest import ingest
from qanchor.events.partitions import Partitions
from qanchor.events.profiles import Profiles
from qanchor.events.store import EventStore

AS_OF = dt.datetime(2025, 3, 10, 6, 30, 15)
VISIT = {"user": "user", "time": "time", "modality": "visit", "text": "{shop}"}
LOOKBACK = {"bill": 20, "visit": 3}


def keys(*rows: tuple[str, dt.datetime]) -> pl.DataFrame:
    return pl.DataFrame(rows, {"user_id": pl.String, "as_of": pl.Datetime("us")}, orient="row")


def two_modalities(root: Path) -> Config:
    """Thirty days of bills and visits of twelve users, many on the same second."""
    rng = np.random.default_rng(1)
    for name, count in (("bill", 600), ("visit", 400)):
        moments = dt.datetime(2025, 2, 20).timestamp() + rng.integers(0, 30 * 24, count) * 3600
        frame = pl.DataFrame(
            {
                "user": [f"u{user}" for user in rng.integers(0, 12, count)],
                "time": pl.from_epoch(pl.Series(moments.astype(int))),
                "shop": [f"shop {shop}" for shop in rng.integers(0, 9, count)],
                "kind": ["a"] * count,
                "amount": rng.integers(-3, 3, count) / 2,
            }
        )
        write(root / name / "log.parquet", frame)
    bill = {"path": "bill/*", **VISIT, "modality": "bill", "category": "{kind}", "value": "amount"}
    lookbacks = {name: {"lookback_days": days} for name, days in LOOKBACK.items()}
    return project(root, bill, {"path": "visit/*", **VISIT}, modalities=lookbacks, shards=3)


@functools.cache
def world(root: Path) -> tuple[EventStore, list[tuple[object, ...]]]:
    config = two_modalities(root)
    ingest(config, root / "store")
    return EventStore.open(config, root / "store"), content(root / "store")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def events_of(profiles: Profiles, row: int) -> list[tuple[object, ...]]:
    """One profile's events as the tests' `content` has them, in the profile's order."""
    table = profiles.texts
    return [
        (
            profiles.user_ids[row],
            dt.datetime.fromtimestamp(int(profiles.time[n]), dt.UTC).replace(tzinfo=None),
            profiles.modalities[profiles.modality[n]],
            table.category[profiles.text[n]],
            table.text[profiles.text[n]],
            None if np.isnan(profiles.value[n]) else float(profiles.value[n]),
        )
        for n in range(profiles.offsets[row], profiles.offsets[row + 1])
    ]


def in_canonical_order(profiles: Profiles) -> bool:
    order = np.lexsort(
        (profiles.value, profiles.texts.ids[profiles.text], profiles.modality, profiles.time, profiles.owner)
    )
    return bool((order == np.arange(len(order))).all())


def same(found: list[tuple[object, ...]], expected: list[tuple[object, ...]]) -> bool:
    return sorted(found, key=repr) == sorted(expected, key=repr)


moments = st.integers(0, 33 * 86_400).map(lambda second: dt.datetime(2025, 2, 19) + dt.timedelta(seconds=second))
hours = st.integers(0, 33 * 24).map(lambda hour: dt.datetime(2025, 2, 19) + dt.timedelta(hours=hour))
requests = st.lists(st.tuples(st.integers(0, 13).map(lambda n: f"u{n}"), moments | hours), max_size=12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=requests)
def test_any_request_is_answered_as_by_reading_all_rows(root: Path, asked: list[tuple[str, dt.datetime]]) -> None:
    store, rows = world(root)
    past, future = store.profiles(keys(*asked)), store.futures(keys(*asked), 5)
    assert past.user_ids.tolist() == future.user_ids.tolist() == [user for user, _ in asked]
    assert past.keys().rows() == future.keys().rows() == asked
    for n, (user, as_of) in enumerate(asked):
        its = [row for row in rows if row[0] == user]
        before = [row for row in its if as_of - dt.timedelta(days=LOOKBACK[str(row[2])]) <= row[1] < as_of]  # type: ignore[operator]
        after = [row for row in its if as_of <= row[1] < as_of + dt.timedelta(days=5)]  # type: ignore[operator]
        assert same(events_of(past, n), before)
        assert same(events_of(future, n), after)
    assert in_canonical_order(past)
    assert in_canonical_order(future)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(planted=st.lists(st.integers(-40, 40), min_size=1, max_size=8, unique=True), second=st.integers(0, 86_399))
def test_a_planted_future_event_is_never_seen(
    tmp_path_factory: pytest.TempPathFactory, planted: list[int], second: int
) -> None:
    root = tmp_path_factory.mktemp("planted")
    as_of = dt.datetime(2025, 3, 10) + dt.timedelta(seconds=second)
    rows = [("u", str(as_of + dt.timedelta(seconds=away)), f"{away} s", "k", 1.0) for away in planted]
    write(root / "logs/a.parquet", bills(*rows))
    config = project(root)
    ingest(config, root / "store")
    store = EventStore.open(config, root / "store")
    past, future = store.profiles(keys(("u", as_of))), store.futures(keys(("u", as_of)), 1)
    assert [past.texts.text[row] for row in past.text] == [f"{away} s" for away in sorted(planted) if away < 0]
    assert [future.texts.text[row] for row in future.text] == [f"{away} s" for away in sorted(planted) if away >= 0]


def test_population_counts_events_of_each_modality_window(root: Path) -> None:
    store, rows = world(root)
    as_of = dt.datetime(2025, 3, 8)
    counts: dict[object, int] = {}
    for user, moment, modality, *_ in rows:
        inside = as_of - dt.timedelta(days=LOOKBACK[str(modality)]) <= moment < as_of  # type: ignore[operator]
        counts[user] = counts.get(user, 0) + inside
    for least in (1, 27, 33):
        expected = sorted(str(user) for user, count in counts.items() if count >= least)
        assert store.population(as_of.date(), least) == expected
    assert 0 < len(expected) < 12
    assert store.population(dt.date(2020, 1, 1)) == []


def test_days_and_empty_requests(root: Path) -> None:
    store, rows = world(root)
    assert store.days() == sorted({row[1].date() for row in rows})  # type: ignore[attr-defined]
    nobody = store.profiles(keys())
    assert (len(nobody), len(nobody.time)) == (0, 0)
    stranger = store.profiles(keys(("stranger", AS_OF), ("u1", dt.datetime(1971, 1, 1))))
    assert stranger.counts.tolist() == [0, 0]


def test_only_the_days_of_the_windows_are_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = world(root)
    opened: list[str] = []
    scan = store_module._scan

    def watch(paths: list[Path], start: int, end: int) -> pl.LazyFrame:
        opened.extend(path.parent.name[4:] for path in paths)
        return scan(paths, start, end)

    monkeypatch.setattr(store_module, "_scan", watch)
    store.futures(keys(("u1", dt.datetime(2025, 3, 5, 12))), 2)
    assert sorted(set(opened)) == ["2025-03-05", "2025-03-06", "2025-03-07"]
    opened.clear()
    store.futures(keys(("u1", dt.datetime(2025, 3, 5))), 2)
    assert sorted(set(opened)) == ["2025-03-05", "2025-03-06"]


def test_a_day_replaced_under_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "logs/a.parquet", some_bills(60))
    config = project(tmp_path)
    ingest(config, tmp_path / "store")
    store = EventStore.open(config, tmp_path / "store")
    asked = keys(*((f"u{n}", AS_OF) for n in range(5)))
    before = store.profiles(asked)
    scan = store_module._scan
    replaced = False

    def replace_first(paths: list[Path], start: int, end: int) -> pl.LazyFrame:
        nonlocal replaced
        if not replaced:
            replaced = True
            write(tmp_path / "logs/a.parquet", some_bills(60).with_columns(shop=pl.lit("new")))
            ingest(config, tmp_path / "store")
        return scan(paths, start, end)

    monkeypatch.setattr(store_module, "_scan", replace_first)
    after = store.profiles(asked)
    assert after.counts.tolist() == before.counts.tolist()
    assert {after.texts.text[row] for row in after.text} == {"new"}


def test_damaged_store_says_so(tmp_path: Path) -> None:
    write(tmp_path / "logs/a.parquet", some_bills(60))
    config = project(tmp_path)
    ingest(config, tmp_path / "store")
    partitions = Partitions.open(tmp_path / "store")
    for shard in (0, 1):
        path = partitions.path(partitions.days()[0], shard)
        assert path is not None
        path.unlink()
    with pytest.raises(DataError, match="ingest it again"):
        EventStore.open(config, tmp_path / "store").profiles(keys(("u1", AS_OF), ("u2", AS_OF), ("u3", AS_OF)))


def test_keys_are_checked(root: Path) -> None:
    store, _ = world(root)
    with pytest.raises(DataError, match="column `as_of` without nulls"):
        store.profiles(pl.DataFrame({"user_id": ["a"]}))
    with pytest.raises(DataError, match="column `user_id` without nulls"):
        store.profiles(keys(("a", AS_OF)).with_columns(user_id=pl.lit(None, pl.String)))


def test_opening_another_store(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run `qanchor ingest` first"):
        EventStore.open(project(tmp_path), tmp_path)
    write(tmp_path / "logs/a.parquet", some_bills(6))
    ingest(project(tmp_path), tmp_path / "store")
    with pytest.raises(DataError, match="has shards 2, the config has 5"):
        EventStore.open(project(tmp_path, shards=5), tmp_path / "store")
    with pytest.raises(DataError, match="has modalities"):
        EventStore(tmp_path / "store", ("bill", "mini"), {"bill": 90, "mini": 90})
