"""What is built is confirmed; what is not so is refused, for the reason that it is not so."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
import useru_slow_reading as slow
from test_useru_answers import possible
from test_useru_cohorts import changed, kept
from useru_world import AS_OF, Event, World, build, profiles, settings, simulate

from qanchor.errors import DataError
from qanchor.events.profiles import DAY, Texts
from qanchor.useru import checker as checking
from qanchor.useru.checker import Checker
from qanchor.useru.chinese import CHINESE
from qanchor.useru.english import ENGLISH
from qanchor.useru.lookup import Lookup
from qanchor.useru.phrases import Phrases, Topic

NAN = float("nan")


class Call(NamedTuple):
    """One topic of a build, as the checker was asked to confirm it."""

    key: np.ndarray
    topic: str
    words: tuple[tuple[str, ...], ...] | None
    queries: list[str]
    answers: list[str]


class Built(NamedTuple):
    world: World
    checker: Checker
    calls: list[Call]

    def claims(self) -> Iterator[tuple[Call, int]]:
        return ((call, row) for call in self.calls for row in range(len(call.key)))

    def reason(self, call: Call, row: int, answer: str | None = None, key: int | None = None) -> str:
        """Of one answer of a call, or of another answer to it, or for another user."""
        said = call.answers[row] if answer is None else answer
        user = call.key[row : row + 1] if key is None else np.array([key])
        return str(self.checker.confirm(user, call.topic, call.words, [call.queries[row]], [said])[0])


def built(world: World) -> Built:
    calls: list[Call] = []
    confirm = Checker.confirm

    def listen(self: Checker, *asked: object) -> np.ndarray:
        calls.append(Call(*asked))  # type: ignore[arg-type]
        return confirm(self, *asked)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checker, "confirm", listen)
        build(world.config, world.past, world.future, 0)
    return Built(world, Checker(world.config, world.past, world.future), calls)


@pytest.fixture(scope="module")
def english() -> Built:
    return built(simulate(250, 21, shared=51, empty_future=1.0))


@pytest.fixture(scope="module")
def chinese() -> Built:
    return built(simulate(150, 22, "zh", shared=51, empty_future=1.0))


@pytest.mark.parametrize("language", ["english", "chinese"])
def test_built_answers_are_confirmed(language: str, request: pytest.FixtureRequest) -> None:
    one: Built = request.getfixturevalue(language)
    kinds = {"/".join(call.topic.split("/")[: 2 if call.topic.startswith("habit") else 1]) for call in one.calls}
    assert kinds >= {"future", "concept", "life"} | {f"habit/{name}" for name in set(ENGLISH.habits) - {"profile"}}
    for call in one.calls:
        assert set(one.checker.confirm(*call)) <= {""}


def test_windows_and_snapshots_are_those_of_the_answers(english: Built) -> None:
    world = english.world
    short = {"search": 30, "app": 60}
    days = np.array([short.get(name, 90) for name in world.past.modalities])
    past = kept(world.past, world.past.time >= AS_OF - days[world.past.modality] * DAY)
    config = changed(world.config, modalities={name: {"lookback_days": n} for name, n in short.items()})
    other = built(World(config, past, world.future))
    assert all(set(other.checker.confirm(*call)) <= {""} for call in other.calls)
    refused = [english.checker.confirm(*call) for call in other.calls if call.topic == "habit/newest"]
    assert (np.concatenate(refused) != "").any()


TABLES = ("often", "otherwise", "ago", "onset", "trend", "week", "share", "level", "gap", "rhythm", "repeats")
"""Whose words can never both be true."""


@pytest.mark.parametrize(("language", "words"), [("english", ENGLISH), ("chinese", CHINESE)])
def test_another_band_is_refused(language: str, words: Phrases, request: pytest.FixtureRequest) -> None:
    one: Built = request.getfixturevalue(language)
    rng = np.random.default_rng(0)
    swapped: Counter[str] = Counter()
    for call, row in one.claims():
        said = call.answers[row].lower()
        for name in TABLES:
            table = [word for word in getattr(words, name) if word]
            found = max((word for word in table if word.lower() in said), key=len, default=None)
            if found and swapped[name] < 60 and rng.random() < 0.1:
                other = table[(table.index(found) + int(rng.integers(1, len(table)))) % len(table)]
                lie = said.replace(found.lower(), other.lower(), 1)
                lie = lie[:1].upper() + lie[1:]
                assert one.reason(call, row, lie) != "", (call.topic, call.answers[row], lie)
                swapped[name] += 1
    assert set(swapped) == set(TABLES)
    assert min(swapped.values()) >= 5


def test_another_number_is_refused(english: Built) -> None:
    changed_: Counter[str] = Counter()
    for call, row in english.claims():
        if numbers := re.findall(r"\d+", call.answers[row]):
            kind = "/".join(call.topic.split("/")[:2])
            if changed_[kind] < 30 and not (kind == "habit/month" and "day" in call.answers[row]):
                lie = call.answers[row].replace(numbers[-1], str(int(numbers[-1]) + 1), 1)
                assert english.reason(call, row, lie) != "", (call.topic, call.answers[row], lie)
                changed_[kind] += 1
    assert {"future", "habit/activity", "habit/spending", "habit/breadth", "habit/change"} <= set(changed_)


def test_days_of_the_week_are_refused_unless_they_are_tied(english: Built) -> None:
    tied = Counter[bool]()
    for call, row in english.claims():
        found = re.search("usiest on (.+?day)", call.answers[row])
        if call.topic == "habit/week" and found:
            days = Counter(slow.date(event).weekday() for event in slow.read(english.world.past, int(call.key[row])))
            for number, name in enumerate(ENGLISH.weekday):
                lie = call.answers[row].replace(f"usiest on {found[1]}", f"usiest on {name}")
                true = days[number] == max(days.values())
                assert (english.reason(call, row, lie) == "") == true
                tied[true] += 1
    assert min(tied.values()) > 10


def test_texts_of_other_users_are_refused(english: Built) -> None:
    swapped = 0
    for call, row in english.claims():
        side = english.world.future if call.topic.startswith("future") else english.world.past
        own = {event[3] for event in slow.read(side, int(call.key[row]))}
        lies = set(side.texts.text) - own
        told = [text for text in own if text in call.answers[row]]
        if told and lies and not call.topic.startswith("habit/") and swapped < 400:
            assert english.reason(call, row, call.answers[row].replace(told[0], max(lies), 1)) != ""
            swapped += 1
    assert swapped == 400


def test_answers_are_true_of_another_user_only_if_the_slow_reading_says_so(english: Built) -> None:
    """Of users whose three most frequent texts are not tied, so that there is one true answer in each wording."""
    rng = np.random.default_rng(1)
    agreed: Counter[tuple[str, bool]] = Counter()
    for call in english.calls:
        kind, _, name = call.topic.partition("/")
        if kind not in ("concept", "future") or not name:
            continue
        for row, other in rng.integers(0, len(call.key), (40, 2)).tolist():
            side = english.world.future if kind == "future" else english.world.past
            every = slow.read(side, int(call.key[other]))
            counts = [n for _, n in slow.most([e for e in every if slow.says(name, e)], slow.text)]
            if any(one == following for one, following in pairwise(counts[:3])):
                continue
            read = slow.focus if kind == "future" else slow.fact
            told = read(name, every, AS_OF, 30 if kind == "future" else 90, ENGLISH)
            true = call.answers[row] in possible(ENGLISH.focus if kind == "future" else ENGLISH.fact, *told)
            reason = english.reason(call, row, key=int(call.key[other]))
            assert (reason == "") == true, (call.topic, call.answers[row], told, reason)
            agreed[kind, true] += 1
    assert len(agreed) == 4
    assert min(agreed.values()) > 20


def test_nothing_is_refused_of_those_who_have_something(english: Built) -> None:
    seen: Counter[bool] = Counter()
    for call in english.calls:
        kind, _, name = call.topic.partition("/")
        if kind != "future":
            continue
        for row in range(len(call.key)):
            events = slow.read(english.world.future, int(call.key[row]))
            some = any(slow.says(name, e) for e in events) if name else bool(events)
            otherwise = ENGLISH.otherwise[slow.often(events, 30)]
            nothing = (
                f"No {name} at all in the next month{otherwise}." if name else "No activity at all in the next month."
            )
            reason = english.reason(call, row, nothing)
            assert reason == ("nothing: the events tell something" if some else "")
            seen[some] += 1
    assert min(seen.values()) > 100


def test_garbage_cannot_be_parsed(english: Built) -> None:
    for call in english.calls:
        for said in ("", "Hello.", "The user is very fond of it", call.answers[0] + " Or not.", call.answers[0][1:]):
            assert english.reason(call, 0, said) != ""
    assert {english.reason(call, 0, "?") for call in english.calls} == {"cannot be parsed"}


def test_questions_are_those_of_the_topic(english: Built) -> None:
    call = next(call for call in english.calls if call.topic.startswith("future/"))
    asked = [call.queries[0].replace("month", "week")]
    reason = english.checker.confirm(call.key[:1], call.topic, call.words, asked, call.answers[:1])[0]
    assert reason.startswith("question: ")
    for topic, words in (
        ("habit/age", None),
        ("habit/spending/cash", None),
        ("concept/tea", None),
        ("life/no_such", ()),
    ):
        with pytest.raises(DataError, match=r"no way to check|no topic 'no_such'"):
            english.checker.confirm(call.key[:1], topic, words, ["?"], ["?"])


def alone(past: list[Event], future: list[Event] = ()) -> Checker:  # type: ignore[assignment]
    """A checker of one user of bills."""
    rows = sorted({event[1:4] for event in (*past, *future)})
    table = Texts(np.arange(len(rows), dtype=np.uint64), *(list(column) for column in zip(*rows, strict=True)))
    sides = (profiles([events], table, ("bill",), [AS_OF]) for events in (past, future))
    return Checker(settings(("bill",)), *sides)


def confirm(checker: Checker, topic: str, answer: str, words: list[list[str]] | None = None) -> str:
    """Asked in any words that the topic has."""
    name = topic.partition("/")[2]
    question = {
        "concept": f"Is the user interested in {name}?",
        "future": f"Will the user go for {name} in the next month?" if name else ENGLISH.future.questions[0],
        "habit": ENGLISH.habits.get(name.split("/")[0], ENGLISH.future)
        .questions[0]
        .format(value="amount", modality="bill"),
    }[topic.split("/")[0]]
    return str(checker.confirm(np.array([0]), topic, words, [question], [answer])[0])


def bills(*told: tuple[float, str], value: float = NAN) -> list[Event]:
    """Events at noon, days after `AS_OF`, of one category."""
    return [(AS_OF + round(day * DAY) + DAY // 2, "bill", "tea", text, value) for day, text in told]


def test_reasons_name_the_claim() -> None:
    checker = alone(bills((-3, "Oolong"), (-40, "Oolong"), value=4.5))
    said = "{}, most recently {}: {}, typical amount {}."
    true = ["Twice", "within the last three days", "always Oolong", "2-5"]
    assert confirm(checker, "concept/tea", said.format(*true), [["tea"]]) == ""
    for place, lie, reason in (
        (0, "About once a week", "often: says 'About once a week', the events say 'twice'"),
        (1, "within the last week", "ago: says 'within the last week', the events say 'within the last three days'"),
        (2, "always Sencha", "named: says 'always Sencha', the events say 'always Oolong'"),
        (3, "5-10", "amount: says ', typical amount 5-10', the events say ', typical amount 2-5'"),
    ):
        answer = said.format(*true[:place], lie, *true[place + 1 :])
        assert confirm(checker, "concept/tea", answer, [["tea"]]) == reason
    both = said.format("Once", *true[1:3], "5-10")
    assert confirm(checker, "concept/tea", both, [["tea"]]).count("; amount: ") == 1
    nothing = "No sign of tea in the last 90 days, only two things of another kind."
    assert confirm(checker, "concept/tea", nothing, [["tea"]]) == "nothing: the events tell something"


@pytest.mark.parametrize(
    "text",
    [
        "Oolong; twice, from early on",
        "mostly Oolong, also Sencha",
        "Yes, twice and from early on: Oolong",
        "Oolong, mostly in the afternoon, more than before",
        "ısıtıcı: once, the last time",
        "100% {concept} (about 40%), once; Sencha",
    ],
)
def test_texts_may_hold_anything_that_a_sentence_does(text: str) -> None:
    checker = alone(bills((-20, text), (-15, text), (-10, text), (-2, "Sencha")), bills((1, text), (2, text)))
    ago, more = "within the last three days", "mostly in the afternoon"
    for topic, answer in (
        ("future", "{}, twice."),
        ("future/tea", "Always {}; twice, from early on."),
        ("future/tea", "Yes, twice and from early on: always {}."),
        ("habit/favourites/bill", f"{{}}, Sencha (a few times, most recently {ago})."),
        ("habit/newest", f"Last seen {ago}: Sencha, {{}}."),
        ("concept/tea", f"A few times, most recently {ago}: mostly {{}}, also Sencha, {more}, all of it recent."),
        ("concept/tea", f"Mostly {{}}, also Sencha: a few times, the last time {ago}, all of it recent, {more}."),
    ):
        words = [["tea"]] if topic.endswith("tea") else None
        true, lie = (answer.replace("{}", said) for said in (text, text.replace("o", "a").replace("s", "z")))
        assert confirm(checker, topic, true[0].upper() + true[1:], words) == "", true
        assert confirm(checker, topic, lie[0].upper() + lie[1:], words) != "", lie
        assert confirm(checker, topic, (true + true)[0].upper() + (true + true)[1:], words) != ""


def test_items_of_the_future_are_counted_and_told_once() -> None:
    checker = alone([], bills((1, "Sencha"), (2, "Sencha"), (3, "Oolong"), (4, "Oolong"), (5, "Oolong"), (6, "Latte")))
    for answer in ("Latte, once.", "Sencha, twice; Oolong, 3 times.", "Oolong, 3 times; Latte, once; Sencha, twice."):
        assert confirm(checker, "future", answer) == ""
    for answer in ("Latte, twice.", "Latte, once; Latte, once.", "Oolong, 2 times.", "Latte, once; Mocha, once.", "."):
        assert confirm(checker, "future", answer) != ""


def test_tied_things_may_stand_in_any_order() -> None:
    checker = alone(bills((-4, "Mocha"), (-3, "Sencha"), (-2, "Sencha"), (-1, "Oolong")))
    said = "{} (a few times, most recently within the last day)."
    for told, true in (
        ("Sencha, Oolong, Mocha", True),
        ("Sencha, Mocha, Oolong", True),
        ("Sencha, Mocha, Mocha", False),
        ("Mocha, Sencha, Oolong", False),
        ("Sencha, Oolong", False),
    ):
        assert (confirm(checker, "habit/favourites/bill", said.format(told)) == "") == true
    said = "A few times, most recently within the last day: {}, mostly in the afternoon, all of it recent."
    for told, true in (
        ("Sencha, Oolong and others", True),
        ("Sencha, Mocha and others", True),
        ("Mocha, Sencha and others", False),
        ("Sencha and Mocha", False),
    ):
        assert (confirm(checker, "concept/tea", said.format(told), [["tea"]]) == "") == true


def test_other_wordings_are_understood_and_unknown_fields_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    focus = Topic(ENGLISH.focus.questions, ("It will be {named} ({onset}), {often}!", "{named} by {mood}"), ("Nope.",))
    often = tuple(word.upper() for word in ENGLISH.often)
    monkeypatch.setattr(checking, "ENGLISH", dataclasses.replace(ENGLISH, focus=focus, often=often))
    checker = alone([], bills((1, "Sencha")))
    assert confirm(checker, "future/tea", "It will be Sencha (early in the period), ONCE!", [["tea"]]) == ""
    assert confirm(checker, "future/tea", "It will be Sencha (early in the period), TWICE!", [["tea"]]).startswith(
        "often"
    )
    assert confirm(checker, "future/tea", "Sencha by heart", [["tea"]]) == "mood: says 'heart', the events say nothing"
    assert confirm(checker, "future/coffee", "Nope.", [["coffee"]]) == ""


def test_snapshots_tell_of_the_person_and_are_no_acts() -> None:
    rows = [("bill", "tea", "Latte"), ("person", "person", "age: 30 to 39"), ("person", "person", "balance")]
    table = Texts(np.arange(3, dtype=np.uint64), *(list(column) for column in zip(*rows, strict=True)))
    old, new = ([(AS_OF - n * DAY, *rows[1], NAN), (AS_OF - n * DAY, *rows[2], 150.0)] for n in (40, 9))
    modalities = ("bill", "person")
    past, future = (profiles([events], table, modalities, [AS_OF]) for events in ([*old, *new[1:]], []))
    sources = [
        {"path": "b.csv", "user": "u", "time": "t", "modality": "bill", "text": "{x}"},
        {"path": "p.csv", "user": "u", "time": "t", "modality": "person", "features": ["age", "balance"]},
    ]
    checker = Checker(changed(settings(modalities), sources=sources), past, future)

    def reason(topic: str, query: str, answer: str) -> str:
        return str(checker.confirm(np.array([0]), topic, None, [query], [answer])[0])

    asked = "Describe the user by the person data."
    assert reason("habit/profile/person", asked, "Balance 100-200.") == ""
    assert reason("habit/profile/person", asked, "Balance 200-500.") != ""
    assert reason("habit/profile/person", asked, "Age: 30 to 39; balance 100-200.") != ""  # of an older snapshot
    assert reason("habit/newest", "What has the user done most recently?", "Not seen in the last 90 days.") == ""


def test_a_text_speaks_of_whole_words() -> None:
    said = ["Visas for Japan", "visage", "the car near a park", "car parks", "buses", "bus", "the goods", "拿铁咖啡馆"]
    table = Texts(np.arange(8, dtype=np.uint64), ["bill"] * 8, ["misc"] * 7 + ["咖 啡"], said)
    lookup = Lookup(table)

    def rows(*phrases: list[str]) -> list[int]:
        return np.flatnonzero(lookup.speaking(phrases)).tolist()

    assert rows(["visa"]) == rows(["visas"]) == [0]
    assert rows(["park", "car"]) == rows(["car park"]) == [2, 3]
    assert rows(["bus"]) == [5]
    assert rows(["visa"], ["car", "park"]) == [0, 2, 3]
    assert rows(["near"]) == []  # says nothing by itself
    assert rows(["bill"]) == list(range(8))
    assert rows(["咖啡"]) == rows(["铁咖啡"]) == rows(["馆"]) == rows(["bill", "咖啡馆"]) == [7]
    assert rows(["啡咖"]) == rows([]) == rows() == rows(["tea"]) == []
