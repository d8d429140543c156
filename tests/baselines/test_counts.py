"""Counts against a reading of the definition, event by event."""

from __future__ import annotations

import re
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qanchor.baselines.counts import MIN_PROFILES, Counts
from qanchor.errors import DataError
from qanchor.events.profiles import DAY, Profiles, Texts

MODALITIES = ("bill", "search", "app")
KINDS = [
    ("app", "app", "maps"),
    ("app", "app", "news"),
    ("bill", "food", "noodles"),
    ("bill", "food", "tea"),
    ("bill", "fuel", "petrol"),
    ("bill", "yacht", "yacht"),
    ("search", "news", "weather"),
    ("search", "trips", "trains"),
]
TEXTS = Texts(np.arange(len(KINDS), dtype=np.uint64), *map(list, zip(*KINDS, strict=True)))
AS_OF = 20_000 * DAY + 12 * 3600
Event = tuple[int, int, float]
"""Seconds before as_of, row of KINDS, value."""


def profiles(users: list[list[Event]], texts: Texts = TEXTS) -> Profiles:
    ordered = [sorted(events, reverse=True) for events in users]
    flat = [event for events in ordered for event in events]
    return Profiles(
        np.array([f"u{n}" for n in range(len(users))], object),
        np.full(len(users), AS_OF),
        np.cumsum([0, *map(len, ordered)]),
        np.array([AS_OF - age for age, _, _ in flat], np.int64),
        np.array([MODALITIES.index(texts.modality[text]) for _, text, _ in flat], np.uint8),
        np.array([text for _, text, _ in flat], np.int32),
        np.array([value for _, _, value in flat], np.float32),
        MODALITIES,
        texts,
    )


def draw_users(seed: int, count: int) -> list[list[Event]]:
    random = np.random.default_rng(seed)
    kinds = [0, 0, 1, 2, 2, 3, 4, 6, 7]

    def event() -> Event:
        kind = int(random.choice(kinds))
        value = float(np.float32(random.normal(0, 50))) if kind in (2, 3, 4) and random.random() < 0.8 else np.nan
        return int(random.integers(1, 90 * DAY)), kind, value

    return [[event() for _ in range(random.poisson(6))] for _ in range(count)]


def brute_force(events: list[Event], counts: Counts) -> dict[str, float]:
    """Every feature of one user as its name says it."""
    found: dict[str, float] = {}
    pooled = {c for c in counts.categories if c[1] is not None}
    members = defaultdict(list)
    for age, text, value in events:
        modality, category, _ = KINDS[text]
        name = f"{modality}/{category}" if (modality, category) in pooled else f"{modality}/rare ones"
        for group in ("all", modality, name):
            members[group].append((age, value))
        for word in re.findall(r"\w+", TEXTS.described[text]):
            members[repr(word)].append((age, value))
    for name in counts.names:
        group, what = name.split(": ")
        own = members[group]
        if what == "never":
            found[name] = float(not own)
        elif what.endswith(" amount"):
            priced = [(-age, value) for age, value in own if not np.isnan(value)]
            newest, mean = max(priced, default=(0, 0.0))[1], np.mean([value for _, value in priced] or [0.0])
            amount = newest if what.startswith("newest") else mean
            found[name] = np.sign(amount) * np.log1p(abs(amount))
        elif what == "days since the last":
            found[name] = np.log1p(min([counts.lookback, *(age / DAY for age, _ in own)]))
        else:
            measure, window = what.split(" in ")
            within = np.inf if window == "all days" else int(window.split()[0]) * DAY
            recent = [(age, value) for age, value in own if age <= within]
            total = {
                "events": len(recent),
                "active days": len({(AS_OF - age) // DAY for age, _ in recent}),
                "amount": sum(value for _, value in recent if not np.isnan(value)),
            }[measure]
            found[name] = np.sign(total) * np.log1p(abs(total))
    return found


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.booleans())
def test_every_feature_is_what_its_name_says(seed: int, values: bool, words: bool) -> None:
    training, others = draw_users(seed, 40), [*draw_users(seed + 1, 8), []]
    counts = Counts(values, words).fit(profiles(training))
    assert values == any("newest amount" in name for name in counts.names)
    assert words == ("'noodles': events in 7 days" in counts.names)
    features = counts.embed(profiles(others))
    assert features.shape == (9, len(counts.names))
    assert features.dtype == np.float32
    for row, events in zip(features, others, strict=True):
        expected = brute_force(events, counts)
        np.testing.assert_allclose(row, [expected[name] for name in counts.names], rtol=1e-5, atol=1e-4)


def test_windows_groups_and_amounts_are_all_there() -> None:
    names = Counts().fit(profiles(draw_users(0, 200))).names
    for group in ("all", "bill", "app", "search", "bill/food", "bill/fuel", "search/trips"):
        for what in ("events in 7 days", "events in 30 days", "events in all days", "days since the last", "never"):
            assert f"{group}: {what}" in names
    assert {f"bill: amount in {w}" for w in ("7 days", "30 days", "all days")} < set(names)
    assert "bill/food: amount in all days" in names
    assert not any(name.startswith(("search: amount", "app: amount")) for name in names)
    assert not any(name.startswith("app/") for name in names), "the only category repeats its modality"
    assert len(names) == len(set(names))


def test_rare_categories_are_pooled_and_unseen_ones_join_them() -> None:
    training = [[(DAY, 2, 1.0)]] * MIN_PROFILES + [[(DAY, 4, 1.0)]] * (MIN_PROFILES - 1)
    counts = Counts().fit(profiles(training))
    assert counts.categories == [("bill", "food"), ("bill", None)]
    rare = counts.names.index("bill/rare ones: events in all days")
    assert counts.embed(profiles([[(DAY, 4, 1.0), (DAY, 5, 9.0)]]))[0, rare] == pytest.approx(np.log(3))


def test_a_category_is_known_by_name_whatever_its_row_in_the_text_table() -> None:
    counts = Counts().fit(profiles(draw_users(3, 60)))
    flipped = Texts(TEXTS.ids, *([kind[k] for kind in reversed(KINDS)] for k in range(3)))
    users = draw_users(4, 10)
    moved = [[(age, len(KINDS) - 1 - text, value) for age, text, value in events] for events in users]
    assert np.array_equal(counts.embed(profiles(users)), counts.embed(profiles(moved, flipped)))


def test_short_lookback_has_no_window_twice() -> None:
    counts = Counts().fit(profiles([[(DAY, 2, 1.0), (20 * DAY, 4, 2.0)]] * 9))
    assert {name.split(" in ")[1] for name in counts.names if " in " in name} == {"7 days", "all days"}


def test_refuses_what_it_cannot_count() -> None:
    with pytest.raises(DataError, match="without a single event"):
        Counts().fit(profiles([[], []]))
    counts, past = Counts().fit(profiles(draw_users(0, 20))), profiles(draw_users(0, 2))
    with pytest.raises(DataError, match="fit and embed one store"):
        counts.embed(
            Profiles(
                *[getattr(past, f) for f in past.__dataclass_fields__ if f != "modalities" and f != "texts"],
                ("x",),
                TEXTS,
            )
        )
