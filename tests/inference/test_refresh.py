"""A refresh leaves what a full recompute leaves, bit for bit, and embeds only who changed."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import WORDS
from daily_world import COFFEE, LOOKBACK, RENT, SHARDS, START, World, embed, refresh, rows, save_model, some_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qanchor.errors import DataError, ModelError
from qanchor.events.forgotten import forget
from qanchor.events.store import EventStore
from qanchor.inference import lance
from qanchor.inference import shard as shards
from qanchor.inference.engine import QAnchor
from qanchor.inference.shard import Scenario
from qanchor.inference.snapshot import Snapshot
from qanchor.model.batch import AGE_DAYS


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def world(tmp_path, model):
    world = World(tmp_path, model)
    world.log("all", some_rows(7, range(20)))
    return world


def recomputed(world: World, day: int, *scenarios: Scenario) -> dict[tuple[str, str], bytes]:
    """The same day from nothing, elsewhere."""
    job = world.job(day, *scenarios, to=f"again-{day}-{len(os.listdir(world.root))}")
    embed(job)
    return rows(job)


def assert_same(one: dict[tuple[str, str], bytes], other: dict[tuple[str, str], bytes]) -> None:
    """Bit for bit."""
    assert one.keys() == other.keys()
    assert {key for key in one if one[key] != other[key]} == set()


def prefixes(world: World, day: int) -> dict[str, tuple]:
    """A slow reading of D4: all that a user's prefix depends on."""
    as_of = START + dt.timedelta(days=day)
    store = EventStore(world.root / "store", tuple(LOOKBACK), LOOKBACK)
    users = store.population(as_of)
    keys = pl.DataFrame({"user_id": users}, schema={"user_id": pl.String})
    past = store.profiles(keys.with_columns(as_of=pl.lit(as_of).cast(pl.Datetime("us"))))
    found = {}
    for n, user in enumerate(users):
        own = slice(past.offsets[n], past.offsets[n + 1])
        age = (past.as_of[n] - past.time[own]) / 86_400
        events = list(zip(past.time[own], past.modality[own], past.texts.ids[past.text[own]], strict=True))
        found[user] = (events, past.value[own].tobytes(), tuple(np.searchsorted(AGE_DAYS, age, side="right")))
    return found


def test_only_who_changed_is_embedded_and_all_is_as_if_recomputed(world):
    refresh(world.job(12))
    for before, after in ((12, 13), (13, 14), (14, 19)):
        old, new = prefixes(world, before), prefixes(world, after)
        reports = refresh(world.job(after))
        changed = {user for user in new if old.get(user) != new[user]}
        assert sum(report.embedded for report in reports) == 2 * len(changed)
        assert sum(report.carried for report in reports) == 2 * (len(new) - len(changed))
        assert_same(rows(world.job(after)), recomputed(world, after))


def test_a_second_run_changes_nothing(world):
    refresh(world.job(12))
    before = {path: path.stat().st_mtime_ns for path in (world.root / "out" / "embeddings").rglob("*")}
    assert all(report.up_to_date for report in refresh(world.job(12)))
    assert {path: path.stat().st_mtime_ns for path in (world.root / "out" / "embeddings").rglob("*")} == before
    with pytest.raises(DataError, match=r"refreshed to 2025-03-13 already, got 2025-03-12"):
        refresh(world.job(11))


def test_a_new_scenario_computes_only_itself(world):
    refresh(world.job(12, COFFEE))
    users = len(rows(world.job(12, COFFEE)))
    reports = refresh(world.job(12, COFFEE, RENT))
    assert (sum(r.embedded for r in reports), sum(r.carried for r in reports)) == (users, 0)
    old, new = prefixes(world, 12), prefixes(world, 13)
    reports = refresh(world.job(13, COFFEE, RENT))
    assert sum(r.embedded for r in reports) == 2 * len({user for user in new if old.get(user) != new[user]})
    with pytest.raises(ModelError, match="no soft prompt for 'moon'"):
        refresh(world.job(13, Scenario("moon", "will it rain?", True)))


def test_another_model_recomputes_everything(world, tmp_path):
    refresh(world.job(12))
    other = World(world.root, save_model(tmp_path / "other"))
    model = QAnchor.from_pretrained(other.model)
    model.towers.user_emb.data += 1
    model.prompts = {}
    model.save_pretrained(other.model)
    (other.model / "prompts" / "coffee.safetensors").unlink()
    job = other.job(13, RENT)
    assert sum(report.carried for report in refresh(job)) == 0
    assert_same(rows(job), recomputed(other, 13, RENT))


def test_late_rows_of_a_past_day_reach_its_users(world):
    refresh(world.job(12))
    old = prefixes(world, 12)
    world.log("late", [("u6", 8 * 86_400 + 5, "bill", "hotel", None), ("late", 9 * 86_400, "bill", "rent", 2.0)])
    reports = refresh(world.job(12))
    assert sum(report.embedded for report in reports) == 2 * 2
    assert_same(rows(world.job(12)), recomputed(world, 12))
    world.log("late", [])  # and a day that loses rows
    refresh(world.job(13))
    assert_same(rows(world.job(13)), recomputed(world, 13))
    assert prefixes(world, 12) == old


def test_one_bad_user_is_set_aside_with_the_reason(world, monkeypatch):
    world.log("bad", [(user, 11 * 86_400, "bill", "rent", 1.0) for user in ("bad", "worse")])
    plain = QAnchor.embed

    def fails(self, profiles, *arguments, **more):
        if "worse" in profiles.user_ids:
            raise RuntimeError("cannot be read")
        embedding_NGO = plain(self, profiles, *arguments, **more)
        embedding_NGO[profiles.user_ids == "bad"] = np.nan
        return embedding_NGO

    monkeypatch.setattr(QAnchor, "embed", fails)
    job = world.job(12)
    assert sum(report.set_aside for report in refresh(job)) == 2
    aside = {
        user: why
        for shard in range(SHARDS)
        for user, why in Snapshot(job.snapshots, job.as_of).set_aside(shard).items()
    }
    assert "not a finite number" in aside["bad"]
    assert aside["worse"] == "RuntimeError: cannot be read"
    assert not {"bad", "worse"} & {user for _, user in rows(job)}
    assert {"u0", "u1"} <= {user for _, user in rows(job)}
    refresh(world.job(13))  # and is not forgotten on a day on which nothing happens to it
    aside = [Snapshot(job.snapshots, world.job(13).as_of).set_aside(shard) for shard in range(SHARDS)]
    assert {"bad", "worse"} == {user for part in aside for user in part}


def test_a_model_that_fails_for_everyone_is_an_error(world, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("broken")

    monkeypatch.setattr(QAnchor, "embed", fails)
    with pytest.raises(DataError, match=r"not one of .* could be embedded.*broken"):
        refresh(world.job(12))


def test_blocks_of_any_size_give_the_same(world, monkeypatch):
    refresh(world.job(12))
    whole = rows(world.job(12))
    monkeypatch.setattr(shards, "BLOCK", 2)
    assert_same(recomputed(world, 12), whole)


def test_a_snapshot_as_a_data_set_for_search(world):
    import lance as library

    job = world.job(12)
    embed(job)
    for _ in range(2):  # again: replaced, not doubled
        place = lance.write(Snapshot(job.snapshots, job.as_of), "rent", SHARDS)
    found = library.dataset(str(place))
    expected = {user: np.frombuffer(row, "f4") for (name, user), row in rows(job).items() if name == "rent"}
    assert found.count_rows() == len(expected)
    for user, embedding_O in expected.items():
        nearest = found.to_table(nearest={"column": "embedding", "q": embedding_O, "k": 1})
        assert nearest["user_id"].to_pylist() == [user]


@pytest.mark.usefixtures("one_thread")
def test_killed_at_every_write_and_run_again_equals_uninterrupted(world):
    """A process of its own that forks a child for each write, and kills the child just before it."""
    refresh(world.job(12))
    script = Path(__file__).parent / "killed.py"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(script.parent.parent), str(script.parent), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, script, world.root, world.model, "14"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 5  # what one leaves done, the next has not to do
    assert_same(rows(world.job(14)), recomputed(world, 14))
    assert all(report.up_to_date for report in refresh(world.job(14)))


events = st.tuples(
    st.sampled_from(["a", "b", "c", "d", "e"]),
    st.integers(0, 16 * 86_400 - 1),
    st.sampled_from(sorted(LOOKBACK)),
    st.sampled_from(WORDS),
    st.one_of(st.none(), st.floats(-1e6, 1e6)),
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(events, min_size=1, max_size=40),
    st.lists(st.tuples(st.integers(0, 3), st.lists(events, max_size=6), st.booleans()), min_size=1, max_size=3),
)
def test_any_history_with_late_lost_and_forgotten(tmp_path_factory, model, first, days):
    """Every day some rows of any past day come, or replace those of an earlier file, or a user is forgotten."""
    world, day = World(tmp_path_factory.mktemp("world"), model), 10
    world.log("0", first)
    refresh(world.job(day))
    for step, late, forgets in days:
        day += step
        world.log(str(day % 3), late)
        if forgets:
            forget(world.root / "store", [first[0][0]])
        refresh(world.job(day))
        assert_same(rows(world.job(day)), recomputed(world, day))
