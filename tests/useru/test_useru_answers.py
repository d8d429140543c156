"""Every answer of random worlds, recomputed by a slow reading of the events."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import useru_slow_reading as slow
from useru_world import AS_OF, World, build, simulate

from qanchor.events.profiles import DAY
from qanchor.useru import survey
from qanchor.useru.english import ENGLISH
from qanchor.useru.future import DISCOUNT, LENGTH
from qanchor.useru.phrases import Topic

Row = dict[str, Any]


@pytest.fixture(scope="module", params=range(3))
def asked(request: pytest.FixtureRequest) -> Iterator[tuple[World, list[Row]]]:
    """Sixty users in cohorts of four, so that many topics are drawn; half of the empty futures are told."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(survey, "COHORT", 4)
        world = simulate(60, 10 + request.param, future=13, shared=17, empty_future=0.5)
        yield world, build(world.config, world.past, world.future, request.param).to_dicts()


def possible(topic: Topic, some: bool, fields: dict[str, str]) -> set[str]:
    said = [frame.format(**fields) for frame in (topic.answers if some else topic.nothing)]
    return {text[:1].upper() + text[1:] for text in said}


def user(row: Row) -> int:
    return int(row["user_id"].removeprefix("user"))


def test_facts_about_concepts_are_true(asked: tuple[World, list[Row]]) -> None:
    world, rows = asked
    kinds = set()
    for row in (row for row in rows if row["topic"].startswith("concept/")):
        events = slow.read(world.past, user(row))
        some, fields = slow.fact(row["topic"].removeprefix("concept/"), events, AS_OF, 90, ENGLISH)
        assert row["answer"] in possible(ENGLISH.fact, some, fields), (row, fields)
        kinds.add(some)
    assert kinds == {True, False}


def test_focused_futures_are_true(asked: tuple[World, list[Row]]) -> None:
    world, rows = asked
    kinds = set()
    for row in (row for row in rows if row["topic"].startswith("future/")):
        events = slow.read(world.future, user(row))
        some, fields = slow.focus(row["topic"].removeprefix("future/"), events, AS_OF, 30, ENGLISH)
        assert row["answer"] in possible(ENGLISH.focus, some, fields), (row, fields)
        kinds.add(some)
    assert kinds == {True, False}


def test_summaries_of_the_future_are_true_and_representative(asked: tuple[World, list[Row]]) -> None:
    world, rows = asked
    table = world.past.texts
    kind: dict[str, tuple[str, str]] = {}
    for modality, category, text in zip(table.modality, table.category, table.text, strict=True):
        kind.setdefault(text, (modality, category))
    for row in (row for row in rows if row["topic"] == "future"):
        events = slow.read(world.future, user(row))
        if not events:
            assert row["answer"] == "No activity at all in the next month."
            continue
        items, words = [], 0
        for text, count in slow.summary(events, AS_OF, 30, kind, DISCOUNT):
            words += len(re.findall(r"\w+", text)) + 2
            if words <= LENGTH:
                items.append(f"{text}, {('once', 'twice')[count - 1] if count < 3 else f'{count} times'}")
        told = "; ".join(items) + "."
        assert row["answer"] == told[0].upper() + told[1:]


def test_habits_are_true(asked: tuple[World, list[Row]]) -> None:
    world, rows = asked
    habits = set()
    for row in (row for row in rows if row["topic"].startswith("habit/")):
        _, name, *modality = row["topic"].split("/")
        every = slow.read(world.past, user(row))
        events = [e for e in every if e[1] in modality or not modality]
        some, fields = slow.general(name, events, AS_OF, 90, ENGLISH)
        fields |= {"modality": "".join(modality), "otherwise": ENGLISH.otherwise[slow.often(every, 90)]}
        assert row["answer"] in possible(ENGLISH.habits[name], some, fields), (row, fields)
        habits.add(name)
    assert habits == set(ENGLISH.habits) - {"profile"}  # which needs tabular snapshots: below


def test_answers_leave_the_future_to_the_future(asked: tuple[World, list[Row]]) -> None:
    world, _ = asked
    assert (world.past.time < world.past.as_of[world.past.owner]).all()
    assert (world.future.time >= AS_OF).all()
    assert (world.future.time < AS_OF + 30 * DAY).all()
