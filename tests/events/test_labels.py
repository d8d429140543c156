from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from events_world import BILL, WINDOWS
from hypothesis import given, settings
from hypothesis import strategies as st

from qanchor.config import Config, Filter, Rule, parse
from qanchor.errors import ConfigError, DataError
from qanchor.events.labels import label
from qanchor.events.profiles import DAY, Profiles, Texts

AS_OF = 20_000 * DAY + 3_600
MODALITIES = ("bill", "visit")
WORDS = [
    ("bill", "food", "Cafe one"),
    ("bill", "food", "bakery"),
    ("bill", "fuel", "cafe two"),
    ("visit", "food", "page"),
]
TEXTS = Texts(np.arange(4, dtype=np.uint64), *(list(column) for column in zip(*WORDS, strict=True)))


def config(scenario: dict[str, Any], root: Path = Path()) -> Config:
    sources = [{"path": "x", **BILL}, {"path": "y", **BILL, "modality": "visit"}]
    windows = {**WINDOWS, "lookback_days": 20, "predict_days": 10}
    settings = {"sources": sources, "windows": windows, "modalities": {"visit": {"lookback_days": 5}}}
    return parse({"name": "t", **settings, "scenarios": {"asked": {"query": "?", **scenario}}}, root)


def profiles(events: list[list[tuple[int, int, float | None]]]) -> Profiles:
    """One profile a list of (seconds from as_of, row of WORDS, value)."""
    flat = [event for its in events for event in sorted(its, key=lambda event: event[0])]
    return Profiles(
        np.array([f"u{n}" for n in range(len(events))], object),
        np.full(len(events), AS_OF, np.int64),
        np.cumsum([0, *map(len, events)]),
        np.array([AS_OF + away for away, _, _ in flat], np.int64),
        np.array([MODALITIES.index(WORDS[word][0]) for _, word, _ in flat], np.uint8),
        np.array([word for _, word, _ in flat], np.int32),
        np.array([np.nan if value is None else value for _, _, value in flat], np.float32),
        MODALITIES,
        TEXTS,
    )


def matches(where: Filter, word: int, value: float | None) -> bool:
    modality, category, text = WORDS[word]
    return (
        (not where.modality or modality in where.modality)
        and (not where.category or category in where.category)
        and (where.text is None or re.search(where.text, text) is not None)
        and (where.min_value is None or (value is not None and value >= where.min_value))
        and (where.max_value is None or (value is not None and value <= where.max_value))
    )


def slow_measure(rule: Rule, events: list[tuple[int, int, float | None]]) -> float | None:
    hits = [event for event in events if matches(rule.where, *event[1:])]
    values = [value for _, _, value in hits if value is not None]
    if rule.measure in ("mean", "max") and not values:
        return None
    return {
        "count": lambda: float(len(hits)),
        "days": lambda: float(len({(AS_OF + away) // DAY for away, _, _ in hits})),
        "distinct": lambda: float(len({word for _, word, _ in hits})),
        "sum": lambda: float(sum(values)),
        "mean": lambda: sum(values) / len(values),
        "max": lambda: max(values),
    }[rule.measure]()


def slow_label(
    rule: Rule, past: list[tuple[int, int, float | None]], future: list[tuple[int, int, float | None]]
) -> float:
    measured = slow_measure(rule, future)
    if measured is None:
        return np.nan
    if rule.per_past:
        spoken = rule.where.modality or MODALITIES
        days = min({"bill": 20, "visit": 5}[modality] for modality in spoken)
        before = slow_measure(rule, [event for event in past if event[0] >= -days * DAY])
        if before is None or before <= 0:
            return np.nan
        measured = measured / before * (1 if rule.measure in ("mean", "max") else days / 10)
    if rule.future_only and not any(matches(rule.where, *event[1:]) for event in future):
        return np.nan
    if rule.eligible is not None and not any(matches(rule.eligible, *event[1:]) for event in past):
        return np.nan
    return float(measured < rule.below if rule.below is not None else measured >= rule.at_least)


filters = st.fixed_dictionaries(
    {},
    optional={
        "modality": st.sampled_from([["bill"], ["visit"], ["bill", "visit"]]),
        "category": st.sampled_from([["food"], ["fuel", "none"]]),
        "text": st.sampled_from(["cafe", "(?i)cafe", "^b", "nothing"]),
        "min_value": st.sampled_from([-1.0, 0.5]),
        "max_value": st.sampled_from([0.5, 2.0]),
    },
)
rules = st.builds(
    lambda where, eligible, measure, bound, per_past, future_only: {
        "where": where,
        **({} if eligible is None else {"eligible": eligible}),
        "measure": measure,
        **bound,
        "per_past": per_past,
        "future_only": future_only,
    },
    filters,
    st.none() | filters,
    st.sampled_from(["count", "days", "distinct", "sum", "mean", "max"]),
    st.builds(
        lambda kind, bound: {kind: bound}, st.sampled_from(["at_least", "below"]), st.sampled_from([0.5, 1.0, 2.0])
    ),
    st.booleans(),
    st.booleans(),
)
values = st.none() | st.sampled_from([-1.0, 0.5, 1.0, 2.5])
words = st.integers(0, 3)


def events(low: int, high: int) -> st.SearchStrategy[list[list[tuple[int, int, float | None]]]]:
    return st.lists(st.lists(st.tuples(st.integers(low, high), words, values), max_size=6), min_size=3, max_size=3)


@settings(max_examples=150, deadline=None)
@given(rule=rules, past=events(-20 * DAY, -1), future=events(0, 10 * DAY - 1))
def test_rules_mean_what_they_say(rule: dict[str, Any], past: list[Any], future: list[Any]) -> None:
    # a store gives no event from before its modality's own lookback
    seen = [[e for e in its if e[0] >= -(20 if WORDS[e[1]][0] == "bill" else 5) * DAY] for its in past]
    setup = config({"label": rule})
    parsed = setup.scenarios["asked"].label
    assert parsed is not None
    found = label(setup, "asked", profiles(seen), profiles(future))
    expected = [slow_label(parsed, *pair) for pair in zip(seen, future, strict=True)]
    np.testing.assert_array_equal(found, np.array(expected, np.float32))


def test_less_than_half_of_before_is_per_day() -> None:
    setup = config({"label": {"where": {"modality": ["bill"]}, "per_past": True, "below": 0.5}})
    past = profiles([[(-DAY * n, 0, None) for n in range(1, 20)] + [(-1, 0, None)]] * 3 + [[]])
    future = profiles([[(n, 0, None) for n in range(count)] for count in (4, 5, 6, 1)])
    assert label(setup, "asked", past, future).tolist()[:3] == [1.0, 0.0, 0.0]
    assert np.isnan(label(setup, "asked", past, future)[3])


def test_unknown_scenario_and_bad_expression() -> None:
    nobody = profiles([[]])
    with pytest.raises(ConfigError, match=r"no scenario `ask`; did you mean `asked`\?"):
        label(config({"label": {"at_least": 1}}), "ask", nobody, nobody)
    with pytest.raises(ConfigError, match="not a regular expression"):
        label(config({"label": {"at_least": 1, "where": {"text": "("}}}), "asked", nobody, nobody)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_labels_from_a_file(tmp_path: Path, ending: str) -> None:
    day = "2024-10-04"
    frame = pl.DataFrame(
        {"user_id": ["u2", "u0", "u1", "u0"], "as_of": [day, day, "2024-10-05", "2024-10-05"], "label": [1, 0, 1, 1]}
    )
    path = tmp_path / f"labels.{ending}"
    frame.write_parquet(path) if ending == "parquet" else frame.write_csv(path)
    found = label(config({"labels": path.name}, tmp_path), "asked", profiles([[], [], []]), profiles([[], [], []]))
    np.testing.assert_array_equal(found, np.array([0, np.nan, 1], np.float32))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,2024-10-04,1\nb,2024-10-04,2\n", "row 2: `label` is '2', expected 0 or 1"),
        ("a,2024-10-04,\n", "row 1: `label` is None"),
        ("a,2024-10-04,1\nb,2024-10-04,0\na,2024-10-04 05:00:00,1\n", "row 3: user a has a second label"),
        ("a,soon,1\n", "row 1: `as_of` is 'soon', expected a date"),
        (",2024-10-04,1\n", "row 1: `user_id` is None"),
    ],
)
def test_labels_that_cannot_be_used(tmp_path: Path, rows: str, message: str) -> None:
    (tmp_path / "labels.csv").write_text("user_id,as_of,label\n" + rows)
    with pytest.raises(DataError, match=re.escape(message)):
        label(config({"labels": "labels.csv"}, tmp_path), "asked", profiles([[]]), profiles([[]]))


def test_labels_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels\.csv cannot be read"):
        label(config({"labels": "labels.csv"}, tmp_path), "asked", profiles([[]]), profiles([[]]))
    (tmp_path / "labels.csv").write_text("user,as_of,label\n")
    with pytest.raises(DataError, match="no column `user_id`; found user, as_of, label"):
        label(config({"labels": "labels.csv"}, tmp_path), "asked", profiles([[]]), profiles([[]]))
