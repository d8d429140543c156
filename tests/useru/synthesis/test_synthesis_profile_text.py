"""Profiles as text: what is chosen, how it reads, and what never stands in it."""

from __future__ import annotations

import numpy as np
import pytest
from synthesis_world import bazaar, profiles, settings

from qanchor.useru.synthesis.profile_text import CHUNK, ProfileText, profile_texts
from qanchor.useru.synthesis.redact import LONGEST, Redactor

NAN = float("nan")
NOBODY = Redactor((), ())


def texts(past, max_lines: int = 60, redactor: Redactor = NOBODY, **config: str) -> list[ProfileText]:
    return list(profile_texts(settings(**config), past, redactor, max_lines))


def test_a_profile_reads_like_this():
    events = [(day, "bill", "Latte {at} Blue $Door", 7.0) for day in (1.5, 3, 3, 20)]
    events += [(0.5, "bill", "Metro\n99. ticket", NAN), (40, "search", "jazz", NAN), (2, "card", "city: Bern", NAN)]
    (told,) = texts(profiles([[*events, (35, "card", "city: Basel", NAN)]]))
    assert told.text.splitlines() == [
        "[bill] events 5, different 2, shown 2",
        "1. Latte {at} Blue $Door | 4 times | 1 day ago | amount 5-10",
        "2. Metro 99. ticket | once | less than a day ago",
        "[search] events 1, different 1, shown 1",
        "3. jazz | once | 40 days ago",
        "[card] events 2, different 2, shown 2",
        "4. city: Bern | 2 days ago",
        "5. city: Basel | 35 days ago",
    ]
    assert told.lines[3] == "city: Bern | 2 days ago"


def test_it_reads_chinese_too():
    (told,) = texts(profiles([[(1.5, "bill", "拿铁", 7.0), (2, "bill", "拿铁", 9.0)]]), language="zh")
    assert told.text.splitlines() == [
        "[bill] 共2条，不同的1种，列出1种",
        "1. 拿铁 | 2次 | 1天前 | amount 5-10",
        "[search] 无记录",
        "[card] 无记录",
    ]


def test_the_most_frequent_and_the_most_recent_come_first_and_modalities_take_turns():
    often = [(50 + day, "bill", "often", NAN) for day in range(9)]
    middling = [(30 + n, "bill", f"middling {n % 5}", NAN) for n in range(20)]
    (told,) = texts(profiles([[*often, *middling, (1, "bill", "new", NAN), (80, "search", "only", NAN)]]), max_lines=3)
    assert [line.split(" | ")[0] for line in told.lines] == ["often", "new", "only"]
    assert "[bill] events 30, different 7, shown 2" in told.text


def test_what_is_shown_does_not_depend_on_the_other_profiles():
    past = bazaar(CHUNK + 5)
    alone = texts(past.take(np.array([CHUNK + 3])))[0]
    assert texts(past)[CHUNK + 3] == alone
    assert len({told.digest for told in texts(past)}) == len(past)


def test_a_user_without_events_has_no_lines():
    (told,) = texts(profiles([[]]))
    assert told.lines == ()


@pytest.mark.parametrize(
    ("text", "clean", "blots"),
    [
        ("mail ada@example.org now", "mail [redacted] now", 1),
        ("call 13800138000 or 13900139000", "call [redacted] or [redacted]", 2),
        ("sent to ID_Customer-0007x", "sent to ID_[redacted]x", 1),
        ("sent by CUSTOMER-0042", "sent by [redacted]", 1),
        ("customer-9999 is nobody", "customer-9999 is nobody", 0),
        ("ref 77, not 177", "ref [redacted], not 177", 1),
        ("two\n\n3. lines\u2028here", "two 3. lines here", 0),
    ],
)
def test_what_is_blotted_out(text, clean, blots):
    redactor = Redactor((r"\S+@\S+", r"\d{11}"), ("customer-0007", "customer-0042", "77", "88"))
    assert redactor.clean(text, "77") == (clean, blots)


def test_another_users_short_id_is_just_a_number():
    assert Redactor((), ("77", "88")).clean("bus 88", "77") == ("bus 88", 0)


def test_texts_are_cut_after_they_are_cleaned():
    long = "x" * (LONGEST - 10) + "13800138000"
    clean, blots = Redactor((r"\d{11}",), ()).clean(long)
    assert len(clean) == LONGEST
    assert clean.endswith("[redacted]")
    assert blots == 1
    assert len(Redactor((), ()).clean("x" * 1000)[0]) == LONGEST
