from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from useru_world import AS_OF, World, build, profiles, settings, simulate

from qanchor.errors import DataError
from qanchor.events.profiles import DAY, Texts
from qanchor.useru import dataset


@pytest.fixture(scope="module")
def pairs(world: World) -> pl.DataFrame:
    return build(world.config, world.past, world.future, 7)


def test_rows_are_grouped_by_key_in_the_order_of_past(world: World, pairs: pl.DataFrame) -> None:
    assert pairs.columns == ["user_id", "as_of", "source", "topic", "query", "answer", "support", "cohort"]
    keys = pairs.select("user_id", "as_of").unique(maintain_order=True)
    assert keys.equals(world.past.keys())
    per_key = pairs.group_by("user_id").len()["len"]
    assert per_key.min() == 15  # without a past event there is no evidence, without a future one often no summary
    assert per_key.max() == 26
    runs = pairs.select(pl.col("user_id").rle_id().n_unique()).item()
    assert runs == len(world.past)


def test_slots_are_shared_out(pairs: pl.DataFrame) -> None:
    one = pairs.filter(pl.col("user_id") == pairs.filter(pl.col("topic") == "future")["user_id"][0])
    kinds = one.filter(pl.col("cohort").is_not_null())["topic"].str.replace("/.*", "").value_counts()
    assert dict(kinds.iter_rows()) == {"future": 7, "concept": 6, "habit": 3}
    assert one["topic"].n_unique() == len(one)
    assert (one["source"] == "future").equals(one["topic"].str.starts_with("future"))


def test_users_of_a_cohort_are_asked_the_same(pairs: pl.DataFrame) -> None:
    pairs = pairs.filter(pl.col("cohort").is_not_null())
    asked = pairs.filter(pl.col("topic") != "future").group_by("cohort", "user_id").agg(pl.col("topic").sort())
    assert asked.group_by("cohort").agg(pl.col("topic").n_unique())["topic"].to_list() == [1, 1]
    assert asked.group_by("cohort").len()["len"].to_list() == [300, 300]
    assert asked["topic"].n_unique() == 2  # the two cohorts are asked other things
    queries = pairs.group_by("topic").agg(pl.col("query").n_unique(), pl.col("answer").n_unique())
    assert queries.filter(pl.col("topic") != "future")["query"].min() >= 4  # type: ignore[operator]


def test_the_question_names_its_concept(pairs: pl.DataFrame) -> None:
    asked = pairs.filter(pl.col("topic").str.contains("^(future|concept)/"))
    names = asked["topic"].str.replace("^[a-z]+/", "")
    assert all(name in query for name, query in zip(names, asked["query"], strict=True))


def test_same_seed_same_rows_other_seed_other_topics(world: World, pairs: pl.DataFrame) -> None:
    assert build(world.config, world.past, world.future, 7).equals(pairs)
    assert set(build(world.config, world.past, world.future, 8)["topic"]) != set(pairs["topic"])


def test_another_process_builds_the_same_bytes(tmp_path: Path) -> None:
    """Neither Python's hash seed nor the number of threads is in the rows."""
    script = (
        "import sys, pathlib, useru_world as w; from qanchor.useru import dataset; a = w.simulate(300, 4);"
        "dataset.write([dataset.Part(w.build(a.config, a.past, a.future, 0), 0, {})], pathlib.Path(sys.argv[1]), {})"
    )
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "POLARS_MAX_THREADS": seed}
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        subprocess.run([sys.executable, "-c", script, str(tmp_path / seed)], env=environment, check=True)
    assert (tmp_path / "1/part-0000.parquet").read_bytes() == (tmp_path / "2/part-0000.parquet").read_bytes()


def test_a_future_text_reaches_only_answers_about_the_future(world: World) -> None:
    """Planted: a text that is only ever in futures, and one that is only ever in lookback windows."""
    table = world.past.texts
    texts = Texts(
        np.arange(len(table) + 2, dtype=np.uint64),
        [*table.modality, "app", "app"],
        [*table.category, "ufo", "dinosaur"],
        [*table.text, "zeppelin museum", "triceratops bones"],
    )
    rng = np.random.default_rng(0)

    def planted(of: World, row: int, past: bool) -> World:
        side = of.past if past else of.future
        chosen = rng.random(len(side.text)) < 0.3
        side = dataclasses.replace(
            side,
            text=np.where(chosen, row, side.text).astype(np.int32),
            modality=np.where(chosen, side.modalities.index("app"), side.modality).astype(np.uint8),
            texts=texts,
        )
        return of._replace(past=side) if past else of._replace(future=side)

    told = planted(planted(world, len(table), past=False), len(table) + 1, past=True)
    pairs = build(told.config, told.past, told.future, 0)
    said = pairs.with_columns(
        said=(pl.col("query") + pl.col("answer")).str.to_lowercase(), answer=pl.col("answer").str.to_lowercase()
    )
    later, sooner = "zeppelin|museum|ufo", "triceratops|bones|dinosaur"
    assert not said.filter(pl.col("source") == "uqa")["said"].str.contains(later).any()
    assert not said["query"].str.contains(later).any()
    assert said.filter(pl.col("topic") == "future")["said"].str.contains(later).mean() > 0.5
    summaries = said.filter(pl.col("topic") == "future")
    assert not summaries["said"].str.contains(sooner).any()
    focused = said.filter(pl.col("topic").str.starts_with("future/"), ~pl.col("topic").str.contains(sooner))
    assert not focused["answer"].str.contains(sooner).any()
    assert said.filter(pl.col("source") == "uqa")["answer"].str.contains(sooner).any()


def test_chinese_has_no_latin_letters(chinese: World) -> None:
    pairs = build(chinese.config, chinese.past, chinese.future, 0)
    said = "".join(pairs["query"]) + "".join(pairs["answer"])
    assert re.findall(r"[A-Za-z,;:?!{}]", said) == []
    assert pairs.filter(pl.col("topic") == "future")["query"].unique().to_list() == ["预测未来用户可能发生的行为。"]


def test_empty_futures_are_kept_at_the_configured_share() -> None:
    shares = {}
    for empty_future in (0.0, 0.3, 1.0):
        world = simulate(500, 3, empty_future=empty_future)
        pairs = build(world.config, world.past, world.future, 0).filter(pl.col("topic") == "future")
        empty = (world.future.counts == 0).sum()
        kept = (pairs["answer"] == "No activity at all in the next month.").sum()
        assert len(pairs) == (world.future.counts > 0).sum() + kept
        shares[empty_future] = kept / empty
    assert shares[0.0] == 0
    assert shares[1.0] == 1
    assert 0.15 < shares[0.3] < 0.45


def test_nobody_did_anything() -> None:
    """Keys without any event, in a store without any text, are answered, not refused."""
    nothing = profiles([[], [], []], Texts(np.empty(0, np.uint64), [], [], []), ("bill",), [AS_OF] * 3)
    pairs = build(settings(("bill",), empty_future=1.0), nothing, nothing, 0)
    assert pairs["user_id"].n_unique() == 3
    assert not pairs["topic"].str.contains("concept").any()  # there is nothing to ask about
    assert set(pairs.filter(pl.col("topic") == "habit/newest")["answer"].str.contains("90 days")) == {True}


def test_own_topics_are_those_with_the_strongest_evidence(world: World, pairs: pl.DataFrame) -> None:
    own = pairs.filter(pl.col("cohort").is_null())
    assert set(own["topic"].str.extract("^([a-z]+)/")) == {"life", "concept"}
    asked = dict(own.group_by("user_id").agg("topic").iter_rows())
    drinkers = _fond_of(world, "coffee")
    assert len(drinkers) > 10
    assert np.mean(["life/coffee_tea" in asked.get(user, []) for user in drinkers]) > 0.9
    told = own.filter(pl.col("topic") == "life/coffee_tea", pl.col("user_id").is_in(drinkers))
    assert told["support"].list.len().min() > 0  # type: ignore[operator]
    assert told["support"].list.first().str.contains(r"^\d+ x ").all()


def _fond_of(world: World, category: str) -> list[str]:
    """Users with at least eight events, half of them of this category."""
    spoken = np.array([kind == category for kind in world.past.texts.category])[world.past.text]
    counts = np.bincount(world.past.owner[spoken], minlength=len(world.past))
    return list(world.past.user_ids[(counts >= 8) & (2 * counts >= world.past.counts)])


def test_one_event_is_enough() -> None:
    table = Texts(np.array([5], np.uint64), ["bill"], ["coffee"], ["Latte"])
    past = profiles([[(AS_OF - DAY, "bill", "coffee", "Latte", 4.5)], []], table, ("bill",), [AS_OF, AS_OF])
    future = profiles([[], [(AS_OF, "bill", "coffee", "Latte", 4.5)]], table, ("bill",), [AS_OF, AS_OF])
    pairs = build(settings(("bill",), empty_future=0.0), past, future, 0)
    told = pairs.filter(pl.col("topic") == "future").select("user_id", "answer").rows()
    assert told == [("user1", "Latte, once.")]


def test_pairs_sets_the_rows_of_a_key(world: World) -> None:
    config = settings(world.past.modalities, future=2, shared=2, uqa=1, empty_future=1.0)
    pairs = build(config, world.past, world.future, 0)
    assert 4 * len(world.past) < len(pairs) <= 5 * len(world.past)  # an own topic may be one of the shared ones


def test_answers_tell_users_apart(pairs: pl.DataFrame) -> None:
    card = {kind["kind"]: kind for kind in dataset.card(pairs.lazy())["kinds"]}
    assert card["future"]["distinct"] > 0.8
    assert card["concept/..."]["distinct"] > 0.3
    assert card["concept/..."]["commonest"] < 0.4
    assert card["future/..."]["distinct"] > 0.2
    answers = pairs.group_by("topic").agg(pl.col("answer").n_unique())
    assert answers["answer"].min() > 5  # type: ignore[operator]


def test_answers_are_short(pairs: pl.DataFrame) -> None:
    words = pairs["answer"].str.count_matches(r"\S+")
    assert words.quantile(0.99) <= 40  # type: ignore[operator]
    assert 8 < words.mean() < 30  # type: ignore[operator]


def test_the_card_counts_repeated_answers() -> None:
    frame = pl.DataFrame(
        {
            "user_id": ["a", "b", "c", "d"],
            "as_of": [0] * 4,
            "source": ["uqa"] * 4,
            "topic": ["concept/tea"] * 4,
            "query": ["tea?"] * 4,
            "answer": ["no tea", "no tea", "no tea", "two cups of tea"],
            "cohort": [0] * 4,
        }
    )
    (kind,) = dataset.card(frame.lazy())["kinds"]
    assert kind == {
        "source": "uqa",
        "kind": "concept/...",
        "topics": 1,
        "pairs": 4,
        "distinct": 0.5,
        "commonest": 0.75,
        "query_words": 1.0,
        "answer_words": 2.5,
    }


def test_written_pairs_are_read_back(pairs: pl.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"card\.json is missing"):
        dataset.read(tmp_path)
    halves = [dataset.Part(half, 1, Counter({"life: often": 2})) for half in (pairs.head(4000), pairs.slice(4000))]
    card = dataset.write(halves, tmp_path, {"language": "en"})
    assert json.loads((tmp_path / "card.json").read_text(encoding="utf-8")) == card
    assert (card["pairs"], card["language"], card["refused"]) == (len(pairs), "en", {"life: often": 4})
    assert len(list(tmp_path.glob("*.parquet"))) == 2
    assert dataset.read(tmp_path).equals(pairs)
    assert dataset.read(tmp_path, ("query", "answer")).equals(pairs.select("query", "answer"))
    dataset.write([dataset.Part(pairs.head(10), 1, Counter())], tmp_path, {})
    assert dataset.read(tmp_path).equals(pairs.head(10))


def test_an_interrupted_write_leaves_nothing_that_looks_finished(pairs: pl.DataFrame, tmp_path: Path) -> None:
    dataset.write([dataset.Part(pairs, 1, Counter())], tmp_path, {})

    def parts() -> Iterator[dataset.Part]:
        yield dataset.Part(pairs.head(10), 1, Counter())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dataset.write(parts(), tmp_path, {})
    with pytest.raises(DataError):
        dataset.read(tmp_path)


def test_windows_of_other_keys_are_refused(world: World) -> None:
    rows = np.arange(1, len(world.past))
    with pytest.raises(DataError, match=r"lookback windows of 600 keys and prediction windows of 599"):
        build(world.config, world.past, world.future.take(rows), 0)
    with pytest.raises(DataError, match="no keys"):
        build(world.config, world.past.take(rows[:0]), world.future.take(rows[:0]), 0)
