"""What is asked of whom: snapshots, lookback windows, date-only logs, and how topics are drawn."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from useru_world import AS_OF, World, build, profiles, settings, simulate

from qanchor.config import Config, parse
from qanchor.events.profiles import DAY, Profiles, Texts
from qanchor.useru.cohorts import Interviewer


def changed(config: Config, **sections: Any) -> Config:
    return parse({**config.model_dump(exclude={"root"}), **sections}, Path())


@pytest.fixture(scope="module")
def snapshots() -> tuple[World, pl.DataFrame]:
    """A world whose third modality is a monthly snapshot of age and balance, also within the prediction window."""
    rows = [("bill", "coffee", "Latte"), ("bill", "tea", "Oolong"), ("person", "person", "age_band: 30 to 39")]
    rows += [("person", "person", "age_band: 40 to 49"), ("person", "person", "balance")]
    table = Texts(np.arange(5, dtype=np.uint64), *(list(column) for column in zip(*rows, strict=True)))

    def events(user: int, start: int) -> list[Any]:
        acts = [(AS_OF + (start + n) * DAY + 60, *rows[user % 2], 4.0) for n in range(user % 5)]
        month = AS_OF + (start + 3) * DAY
        return [*acts, (month, *rows[2 + user % 3 // 2], float("nan")), (month, *rows[4], 150.0)]

    modalities = ("bill", "person")
    past = [events(user, -20) + events(user + 1, -60)[-2:] for user in range(40)]
    world = World(
        changed(
            settings(modalities, empty_future=1.0),
            sources=[
                {"path": "b.csv", "user": "u", "time": "t", "modality": "bill", "text": "{x}", "value": "amount"},
                {"path": "p.csv", "user": "u", "time": "t", "modality": "person", "features": ["age_band", "balance"]},
            ],
        ),
        profiles(past, table, modalities, [AS_OF] * 40),
        profiles([events(user, 0) for user in range(40)], table, modalities, [AS_OF] * 40),
    )
    frames = [build(world.config, world.past, world.future, seed) for seed in range(6)]
    return world, pl.concat(frames)


def test_snapshots_speak_of_the_person_only(snapshots: tuple[World, pl.DataFrame]) -> None:
    _, pairs = snapshots
    profile = pairs.filter(pl.col("topic") == "habit/profile/person")
    for user, answer in profile.select("user_id", "answer").iter_rows():
        number = int(user.removeprefix("user"))
        age = "40 to 49" if number % 3 == 2 else "30 to 39"
        told = f"age band: {age}; balance 100-200."
        assert answer in (told.capitalize(), f"Most recently: {told}")
    others = pairs.filter(pl.col("topic") != "habit/profile/person")
    said = (others["query"] + others["answer"] + others["topic"]).str.to_lowercase()
    assert not said.str.contains("age.band|balance|30 to 39|40 to 49").any()
    idle = pairs.filter(pl.col("user_id").is_in(["user0", "user5"]), pl.col("topic").str.contains("^(future|concept)/"))
    assert idle["answer"].str.ends_with("nor anything else.").all()


def test_a_future_of_snapshots_only_is_empty(snapshots: tuple[World, pl.DataFrame]) -> None:
    _, pairs = snapshots
    summaries = pairs.filter(pl.col("topic") == "future").unique("user_id")
    for user, answer in summaries.select("user_id", "answer").iter_rows():
        idle = int(user.removeprefix("user")) % 5 == 0
        assert (answer == "No activity at all in the next month.") == idle


def test_answers_speak_of_the_window_of_the_modality(world: World) -> None:
    config = changed(world.config, modalities={"search": {"lookback_days": 30}, "app": {"lookback_days": 60}})
    short = {"bill": 90, "search": 30, "app": 60}
    days = np.array([short[name] for name in world.past.modalities])
    keep = world.past.time >= AS_OF - days[world.past.modality] * DAY
    past = kept(world.past, keep)
    interviewer = Interviewer(config, past, world.future, 0)
    told = {}
    for seed in range(3):
        for asked in interviewer.ask(np.arange(len(past)), seed):
            if asked.source == "uqa":
                told[asked.name] = asked.fields["days"]
    assert {told[name] for name in told if name.startswith("habit/") and name.count("/") == 1} == {"30"}
    by_modality = {name: days for name, days in told.items() if name.startswith(("habit/favourites", "habit/spending"))}
    assert by_modality
    assert all(days == str(short[name.split("/")[-1]]) for name, days in by_modality.items())
    concepts = {concept.name: concept for concept in interviewer.pool}
    for name, said in told.items():
        if name.startswith("concept/"):
            rows = concepts[name.removeprefix("concept/")].rows
            assert said == str(min(short[past.texts.modality[row]] for row in rows)), name


def kept(past: Profiles, keep: np.ndarray) -> Profiles:
    size = np.bincount(past.owner[keep], minlength=len(past))
    columns = {name: getattr(past, name)[keep] for name in ("time", "modality", "text", "value")}
    return dataclasses.replace(past, offsets=np.concatenate([[0], np.cumsum(size)]), **columns)


def test_logs_of_dates_are_not_asked_for_the_time_of_day(world: World) -> None:
    config = changed(world.config, useru={"shared": 120})
    past, future = (dataclasses.replace(side, time=side.time // DAY * DAY) for side in (world.past, world.future))
    for told, side in ((True, world.past), (False, past)):
        pairs = build(config, side, future, 0)
        assert ("habit/day" in set(pairs["topic"])) == told
        assert pairs["answer"].str.contains("at night|in the morning|in the afternoon|in the evening").any() == told


def test_no_modality_is_asked_for_amounts_that_it_has_not(world: World) -> None:
    bill = world.past.modality == world.past.modalities.index("bill")
    past = dataclasses.replace(world.past, value=np.where(bill, world.past.value, np.nan).astype(np.float32))
    pairs = build(changed(world.config, useru={"shared": 120}), past, world.future, 0)
    assert {topic for topic in pairs["topic"] if "spending" in topic} == {"habit/spending/bill"}


def test_about_half_of_the_users_have_something_to_tell(world: World) -> None:
    interviewer = Interviewer(world.config, world.past, world.future, 0)
    for source, kind in (("future", "future/"), ("uqa", "concept/")):
        shares = [
            asked.some.mean()
            for cohort in range(20)
            for asked in interviewer.ask(np.arange(cohort * 30, (cohort + 1) * 30), cohort)
            if asked.source == source and asked.name.startswith(kind)
        ]
        assert 0.3 < np.mean(shares) < 0.7
        assert min(shares) < 0.2  # rare concepts stay in the mix


def test_a_key_gets_the_same_words_in_any_company() -> None:
    """Wordings go by the key's hash: a user asked the same in two data sets is asked in the same words."""
    world = simulate(300, 5)
    half = np.arange(150)
    both = build(world.config, world.past, world.future, 0)
    some = build(world.config, world.past.take(half), world.future.take(half), 0)
    same = both.join(some, on=["user_id", "as_of", "topic"], suffix="_some")
    assert len(same) > 150
    assert same["query"].equals(same["query_some"].alias("query"))
    assert same["answer"].equals(same["answer_some"].alias("answer"))
