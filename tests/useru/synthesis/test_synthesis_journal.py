"""The journal: what is entered survives, what is torn is cut off, what is damaged is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from synthesis_world import bazaar, settings

from qanchor.errors import DataError
from qanchor.useru.synthesis.interview import Findings, Pair
from qanchor.useru.synthesis.journal import Journal
from qanchor.useru.synthesis.ledger import Tally
from qanchor.useru.synthesis.profile_text import ProfileText, profile_texts
from qanchor.useru.synthesis.redact import Redactor

PAIR = Pair("tea", "喝茶吗？", 'He said "yes"\n', ("Green tea | once", "Stall 1"))
TOOK = Tally(4, 400, 100, Counter({"timeout": 2, "malformed": 1}))


@pytest.fixture
def users() -> list[ProfileText]:
    return list(profile_texts(settings(), bazaar(3), Redactor((), ()), 60))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "journal.jsonl"


def test_what_is_entered_comes_back(path, users):
    done, aside, again = users
    with Journal(path) as journal:
        assert journal.lines().is_empty()
        journal.add(done, Findings([PAIR], kept=1, dropped=2), TOOK)
        journal.add(aside, Findings(), Tally(1, 7, 3), "answer: malformed", "no JSON")
        journal.add(again, Findings(), Tally(1), "topics: timeout", "", again=True)
    with Journal(path) as journal:
        assert [journal.finished(user) for user in users] == [True, True, False]
        assert journal.spent == Tally(6, 407, 103, TOOK.retries)
        first, second, _ = journal.lines().to_dicts()
    assert first["pairs"] == [{**vars(PAIR), "support": list(PAIR.support)}]
    assert (first["kept"], first["dropped"], first["reason"]) == (1, 2, "")
    assert (second["pairs"], second["reason"], second["detail"]) == ([], "answer: malformed", "no JSON")


def test_a_line_is_in_the_file_when_add_returns(path, users):
    with Journal(path) as journal:
        journal.add(users[0], Findings([PAIR]), TOOK)
        assert path.read_bytes().count(b"\n") == 1


def test_a_torn_line_is_cut_off_wherever_it_is_torn(path, users):
    with Journal(path) as journal:
        journal.add(users[0], Findings([PAIR]), TOOK)
        whole = path.read_bytes()
        journal.add(users[1], Findings([PAIR]), TOOK)
        both = path.read_bytes()
    for size in range(len(whole), len(both), 7):
        path.write_bytes(both[:size])
        with Journal(path) as journal:
            assert path.read_bytes() == whole
            assert [journal.finished(user) for user in users] == [True, False, False]
            journal.add(users[1], Findings([PAIR]), TOOK)
        assert path.read_bytes() == both
    path.write_bytes(whole[:20])  # torn in the very first line
    with Journal(path) as journal:
        assert journal.lines().is_empty()


def test_another_profile_of_the_same_user_is_not_finished(path, users):
    with Journal(path) as journal:
        journal.add(users[0], Findings([PAIR]), TOOK)
    changed = ProfileText(users[0].user_id, users[0].as_of, users[0].text + " more", users[0].lines, 0)
    with Journal(path) as journal:
        assert journal.finished(users[0])
        assert not journal.finished(changed)


def test_damage_is_refused(path, users):
    with Journal(path) as journal:
        journal.add(users[0], Findings([PAIR]), TOOK)
    path.write_bytes(b'{"user_id": "half\n' + path.read_bytes())
    with pytest.raises(DataError, match="is damaged"):
        Journal(path)


def test_two_runs_do_not_write_at_once(path):
    with Journal(path), pytest.raises(DataError, match="another run is writing"):
        Journal(path)
    Journal(path).__exit__()
