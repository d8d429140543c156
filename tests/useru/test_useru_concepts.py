from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import useru_slow_reading as slow
from useru_world import AS_OF, ENGLISH, Event, World, profiles, simulate

from qanchor.events.profiles import DAY, Profiles, Texts
from qanchor.useru import concepts
from qanchor.useru.chinese import CHINESE
from qanchor.useru.english import ENGLISH as WORDS
from qanchor.useru.evidence import Evidence


def mined(world: World, seed: int = 0) -> list[concepts.Concept]:
    return found_in(evidence(world.past), world.past.texts, WORDS.either, np.random.default_rng(seed))


def found_in(
    events: Evidence, texts: Texts, join: Callable[[Sequence[str]], str], rng: np.random.Generator
) -> list[concepts.Concept]:
    singles = concepts.mine(events, texts, concepts.spoken(texts))
    return singles + concepts.unite(singles, events, texts, join, rng)


def evidence(past: Profiles) -> Evidence:
    return Evidence.of(past, 90, past.as_of - 90 * DAY, np.ones(len(past.modalities), bool))


def test_a_concept_matches_what_its_name_says(world: World) -> None:
    table = world.past.texts
    events = [(0, *row, 0.0) for row in zip(table.modality, table.category, table.text, strict=True)]
    found = mined(world)
    for concept in found:
        assert concept.rows.tolist() == [row for row, event in enumerate(events) if slow.says(concept.name, event)]
    names = {concept.name for concept in found}
    assert {"coffee", "fast food", "concerts"} <= names
    assert any(" or " in name for name in names)
    assert any(re.search(", .* or ", name) for name in names)


def test_what_too_few_or_too_many_have_is_left_out(world: World) -> None:
    """Shares of users are counted one by one; categories and modalities may be more common than words."""
    coarse = {*ENGLISH, *(category for kinds in ENGLISH.values() for category in kinds)}
    everyone = [{event[1:4] for event in slow.read(world.past, row)} for row in range(len(world.past))]
    said = set.union(*everyone)
    for concept in mined(world):
        speaks = {event for event in said if slow.says(concept.name, (0, *event, 0.0))}
        share = np.mean([bool(events & speaks) for events in everyone])
        most = concepts.COMMONEST_CATEGORY if concept.name in coarse or " or " in concept.name else concepts.COMMONEST
        assert concepts.RAREST <= share <= most, concept.name


def test_the_limits_of_user_frequency() -> None:
    """Of 1,000 users 4, 6, 590 and 610 say a word; and 980 and 1,000 act in a category of that name."""
    shares = {"four": 4, "sixes": 6, "common": 590, "commoner": 610, "habit": 980, "always": 1000}
    table = Texts(
        np.arange(6, dtype=np.uint64), ["note"] * 6, ["a", "a", "a", "a", "habit", "always"], [*map(str.title, shares)]
    )

    def say(user: int) -> list[Event]:
        rows = zip(shares.values(), table.category, table.text, strict=True)
        return [(AS_OF - DAY, "note", category, text, 1.0) for share, category, text in rows if user < share]

    past = profiles([say(user) for user in range(1000)], table, ("note",), [AS_OF] * 1000)
    found = found_in(evidence(past), table, WORDS.either, np.random.default_rng(0))
    assert {c.name for c in found if " or " not in c.name} == {"sixes", "common", "habit"}


def test_a_name_is_a_form_that_was_seen() -> None:
    """The plural stands in two texts of the table, but only the singular in a lookback window."""
    texts = ["tulip soup", "tulips at dawn", "red tulips", "bread"]
    table = Texts(np.arange(4, dtype=np.uint64), ["note"] * 4, ["note", "tulips dawn", "note", "note"], texts)
    events: list[list[Event]] = [
        [(AS_OF - DAY, "note", "note", "tulip soup" if user % 2 else "bread", 1.0)] for user in range(40)
    ]
    past = profiles(events, table, ("note",), [AS_OF] * 40)
    found = found_in(evidence(past), table, WORDS.either, np.random.default_rng(0))
    rows = {concept.name: concept.rows.tolist() for concept in found if " or " not in concept.name}
    assert rows == {"tulip": [0, 1, 2], "soup": [0], "bread": [3]}


def test_met_is_whether_a_profile_has_any_matching_event(world: World) -> None:
    found = mined(world)
    hit = concepts.met(evidence(world.past), *concepts.matches(found, world.past.texts), len(found))
    for row in range(0, len(world.past), 50):
        events = slow.read(world.past, row)
        assert hit[row].tolist() == [any(slow.says(c.name, event) for event in events) for c in found]


def test_names_are_distinct_and_of_the_same_texts_the_longest_stays(world: World) -> None:
    found = mined(world)
    singles = [concept for concept in found if " or " not in concept.name]
    assert len({concept.name for concept in found}) == len(found)
    assert len({concept.rows.tobytes() for concept in singles}) == len(singles)
    assert "appointment" in {concept.name for concept in singles}
    assert "schengen" not in {concept.name for concept in singles}  # only ever said with "appointment"


def test_the_same_seed_mines_the_same(world: World) -> None:
    once, again, other = (mined(world, seed) for seed in (0, 0, 1))
    assert [c.name for c in once] == [c.name for c in again]
    assert [c.name for c in once] != [c.name for c in other]


def test_related_concepts_are_united_more_often_than_others() -> None:
    """Users have either both of a couple of words or none: most unions should be of couples."""
    rng = np.random.default_rng(0)
    couples = [
        ("violin", "trumpet"),
        ("tulip", "daisy"),
        ("falcon", "pigeon"),
        ("granite", "marble"),
        ("tango", "waltz"),
    ]
    single = [word for couple in couples for word in couple]
    table = Texts(np.arange(10, dtype=np.uint64), ["note"] * 10, ["note"] * 10, single)

    def events(couple: int) -> list[tuple[int, str, str, str, float]]:
        return [(AS_OF - int(rng.integers(1, 80)) * DAY, "note", "note", word, 1.0) for word in couples[couple]]

    past = profiles([events(n % 5) for n in range(200)], table, ("note",), [AS_OF] * 200)
    unions = [c.name for c in found_in(evidence(past), past.texts, WORDS.either, rng) if " or " in c.name]
    together = sum(any(a in name and b in name for a, b in couples) for name in unions)
    assert together > len(unions) / 2  # one in nine by chance


def test_what_users_come_back_to_goes_before_what_anyone_says() -> None:
    """Two words of the same frequency: one always by the same few users, one by anyone now and then."""
    rng = np.random.default_rng(0)
    table = Texts(np.arange(3, dtype=np.uint64), ["note"] * 3, ["note"] * 3, ["chess", "weather", "lunch"])

    def say(user: int) -> list[str]:
        taste = ["chess"] * 6 if user % 4 == 0 else []
        return taste + ["weather"] * int(rng.random() < 0.25) + ["lunch"] * int(rng.integers(4, 8))

    events = [[(AS_OF - DAY, "note", "note", word, 1.0) for word in say(user)] for user in range(400)]
    past = profiles(events, table, ("note",), [AS_OF] * 400)
    names = [c.name for c in found_in(evidence(past), past.texts, WORDS.either, rng)]
    assert names.index("chess") < names.index("weather")


@pytest.mark.parametrize(
    ("word", "stem"),
    [("visas", "visa"), ("shows", "show"), ("bus", "bus"), ("glass", "glass"), ("news", "news"), ("tennis", "tennis")],
)
def test_stem_takes_the_plural_away(word: str, stem: str) -> None:
    assert concepts.stem(word) == stem


def test_words_of_chinese_are_runs_and_their_pieces() -> None:
    assert concepts.words("地铁单程票 A1") == {
        *("地铁", "铁单", "单程", "程票", "地铁单", "铁单程", "单程票", "地铁单程", "铁单程票", "地铁单程票"),
    }
    assert concepts.words("Visas for the SCHENGEN area") == {"visas", "schengen", "area"}


def test_chinese_concepts_match_inside_longer_texts() -> None:
    world = simulate(300, 1, "zh")
    found = found_in(evidence(world.past), world.past.texts, CHINESE.either, np.random.default_rng(0))
    coffee = next(concept for concept in found if concept.name == "咖啡")
    matched = [world.past.texts.text[row] for row in coffee.rows]
    assert sorted(matched) == sorted(["拿铁咖啡", "美式咖啡馆", "手冲咖啡豆"])
    assert any("或" in concept.name for concept in found)
    names = {concept.name for concept in found}
    assert "外卖" in names
    assert not names & {"会门票", "乐节", "卖套餐"}  # pieces that no run starts with, or none ends with
