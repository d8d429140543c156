"""D_uqa by an LLM, end to end against a real server: pairs, reflection, secrets, budget, stops and resumption."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from llm_server import LLMServer, Request, Response, good
from synthesis_world import KEYS, bazaar, pool, profiles, settings

from qanchor.config import LLM
from qanchor.errors import BudgetError, ConfigError, DataError
from qanchor.useru.synthesis.redact import Redactor
from qanchor.useru.synthesis.synthesize import Outcome, collect, estimate, synthesize

TINY = 0.002
HERE = Path(__file__).parent


def run(server: LLMServer, folder: Path, past, **llm: object) -> tuple[pl.DataFrame, Outcome]:
    return synthesize(settings(server.url, **llm), past, pool(), folder, backoff_s=TINY)


def asked(server: LLMServer) -> Counter[int]:
    """Requests by user."""
    return Counter(request.user for request in server.requests)


def changed(request: Request, part: str, topic: str, **fields: object) -> Response:
    """The good reply, but for one topic."""
    reply = json.loads(good(request))
    for item in reply[part]:
        if item["topic"] == topic:
            item.update(fields)
    return Response(json.dumps(reply))


def test_every_user_gets_ten_pairs_from_four_requests(tmp_path):
    seen: list[int] = []
    with LLMServer() as server:
        config = settings(server.url, price_in=1, price_out=2)
        pairs, outcome = synthesize(config, bazaar(5), pool(), tmp_path, lambda n, _: seen.append(n), TINY)
    assert asked(server) == dict.fromkeys(range(5), 4)
    assert dict(pairs.schema) == {
        **dict.fromkeys(("user_id", "source", "topic", "query", "answer"), pl.String),
        "as_of": pl.Datetime("us"),
        "support": pl.List(pl.String),
    }
    assert pairs.select("user_id", "as_of").unique(maintain_order=True).equals(bazaar(5).keys())
    one = pairs.filter(pl.col("user_id") == "customer-0003")
    assert one["topic"].to_list() == [f"life/{key}" for key in KEYS[:10]]
    assert set(one["source"]) == {"uqa"}
    assert one.row(1)[3:] == (
        "life/tea",
        "What about tea?",
        "Much tea.",
        ["Stall 3 | once | 1 day ago | amount 10-20", "Green tea | once | 3 days ago | amount 2-5"],
    )
    assert sum(seen) == 5
    told = outcome.told()
    assert (told["done"], told["kept"], told["set_aside"], told["requests"]) == (5, 50, {}, 20)
    assert told["cost"] == pytest.approx((20 * 100 * 1 + 20 * 50 * 2) / 1e6)
    json.dumps(told)


def test_a_users_requests_begin_alike_so_that_a_server_reads_the_profile_once(tmp_path):
    with LLMServer() as server:
        run(server, tmp_path, bazaar(1))
    starts = {(r.body["messages"][0]["content"], r.prompt.partition("</profile>")[0]) for r in server.requests}
    assert len(server.requests) == 4
    assert len(starts) == 1
    assert {r.body["response_format"]["json_schema"]["name"] for r in server.requests} == {
        "topics",
        "questions",
        "answers",
        "reflection",
    }


def test_chinese_users_are_asked_in_chinese(tmp_path):
    with LLMServer() as server:
        pairs, _ = run(server, tmp_path, bazaar(1), language="zh")
    assert len(pairs) == 10
    for request in server.requests:
        assert "画像" in request.body["messages"][0]["content"]
        assert "最近90天" in request.body["messages"][0]["content"]
    assert "tea: tea类" in server.requests[0].prompt


def test_lies_do_not_get_past_the_reflection(tmp_path):
    def script(request: Request, _: int) -> Response | None:
        if request.step == "answers":
            reply = json.loads(changed(request, "answers", "tea", answer="Owns a yacht.").content)
            reply["answers"][0]["answer"] = "Flies to food fairs every day."
            return Response(json.dumps(reply))
        if request.step != "reflection":
            return None
        assert "Owns a yacht." in request.prompt
        reply = json.loads(changed(request, "reflection", "tea", verdict="drop", reason="no line has a yacht").content)
        reply["reflection"][0] |= {"verdict": "revise", "answer": "Looked up saffron once.", "lines": [3]}
        return Response(json.dumps(reply))

    with LLMServer(script) as server:
        pairs, outcome = run(server, tmp_path, bazaar(2))
    assert "life/tea" not in set(pairs["topic"])
    assert not pairs["answer"].str.contains("yacht|Flies").any()
    revised = pairs.filter(pl.col("topic") == "life/food")
    assert set(revised["answer"]) == {"Looked up saffron once."}
    assert revised["support"].to_list() == [["saffron price | once | 9 days ago"]] * 2
    assert (outcome.kept, outcome.revised, outcome.dropped) == (16, 2, 2)


def test_answers_without_evidence_are_dropped_before_and_after_the_reflection(tmp_path):
    bad = {"food": [], "tea": [4], "cloth": [1, 0], "spice": [-1]}

    def script(request: Request, _: int) -> Response | None:
        if request.step == "answers":
            reply = json.loads(good(request))
            for item in reply["answers"]:
                item["lines"] = bad.get(item["topic"], item["lines"])
            return Response(json.dumps(reply))
        if request.step == "reflection":
            assert not set(bad) & set(request.section("drafts"))
            return changed(request, "reflection", "music", verdict="revise", answer="Loud.", lines=[99])
        return None

    with LLMServer(script) as server:
        pairs, outcome = run(server, tmp_path, bazaar(1))
    assert set(pairs["topic"]) == {f"life/{key}" for key in KEYS[:10]} - {f"life/{key}" for key in (*bad, "music")}
    assert (outcome.unsupported, outcome.kept) == (5, 5)


def test_who_cannot_be_asked_about_is_set_aside_with_the_reason(tmp_path):
    def script(request: Request, _: int) -> Response | None:
        if (request.user, request.step) == (1, "reflection"):
            return Response('{"reflection": "fine"}')
        if (request.user, request.step) == (2, "questions"):
            return Response(good(request), finish="length")
        if (request.user, request.step) == (3, "answers"):
            reply = json.loads(good(request))
            return Response(json.dumps({"answers": [{**item, "lines": []} for item in reply["answers"]]}))
        return None

    with LLMServer(script) as server:
        past = bazaar(6)
        pairs, outcome = run(server, tmp_path, past, max_retries=2)
        counts = asked(server)
        again, _ = run(server, tmp_path, past, max_retries=2)
    assert set(pairs["user_id"]) == {"customer-0000", "customer-0004", "customer-0005"}
    assert outcome.set_aside == {"no supported answer": 1, "question: truncated": 1, "reflection: malformed": 1}
    assert (counts[1], counts[2], counts[3]) == (6, 4, 3)
    assert outcome.took.retries == {"malformed": 2, "truncated": 2}
    assert asked(server) == counts  # set aside for good: a rerun does not ask
    assert again.equals(pairs)


def test_a_user_without_events_costs_nothing(tmp_path):
    nobody = profiles([[], [(1, "bill", "Stall 1", 5.0), (2, "bill", "Green tea", 5.0)]])
    with LLMServer() as server:
        pairs, outcome = run(server, tmp_path, nobody)
    assert len(server.requests) == 4
    assert set(pairs["user_id"]) == {"customer-0001"}
    assert outcome.set_aside == {"no events": 1}


def test_what_leaves_the_house_holds_no_id_and_nothing_redacted(tmp_path):
    texts = [
        "Stall 1",
        "sent to customer-0001",
        "gift for Customer-0000, thanks",
        "mail ada@example.org",
        "call 13800138000",
    ]
    texts += ["note {profile} $topics </profile>"]
    events = [[(day + 1, "bill", text, 5.0) for day, text in enumerate(texts)] for _ in range(2)]
    with LLMServer() as server:
        _, outcome = run(server, tmp_path, profiles(events), redact=[r"\S+@\S+", r"1\d{10}"])
    assert len(server.requests) == 8
    for request in server.requests:
        sent = (request.raw + json.dumps(request.headers).encode()).lower()
        assert not any(secret in sent for secret in (b"customer-0", b"ada@", b"example.org", b"13800138000"))
        assert "note {profile} $topics </profile>" in request.prompt
    assert request.prompt.count("[redacted]") == 4
    assert outcome.blots == 8
    assert "customer-0001" in (next(tmp_path.glob("llm-*.jsonl"))).read_text()  # on our own disk, for resuming


@pytest.mark.parametrize("budget", [0.05, 0.4])
def test_the_budget_is_never_passed_by_a_server_that_bills_all_it_may(tmp_path, budget):
    """Every token of a byte, every reply as long as allowed, and every third one to be asked for again."""
    billed = []

    def script(request: Request, before: int) -> Response:
        usage = (sum(len(m["content"].encode()) for m in request.body["messages"]), request.body["max_tokens"])
        billed.append((usage[0] * 0.5 + usage[1] * 2) / 1e6)
        return Response("{" if before % 3 == 0 else good(request), usage=usage)

    price = {"price_in": 0.5, "price_out": 2, "concurrency": 4, "max_retries": 5}
    with LLMServer(script) as server:
        with pytest.raises(BudgetError, match="run again"):
            run(server, tmp_path, bazaar(24), budget=budget, **price)
        assert sum(billed) <= budget
        config = settings(server.url, budget=budget, **price)
        some, outcome = collect(config, bazaar(24), pool(), tmp_path)
        assert outcome.cost == pytest.approx(sum(billed))
        assert outcome.done == some["user_id"].n_unique() == len(asked(server))
        assert outcome.set_aside == {"not asked": 24 - outcome.done}
        with pytest.raises(BudgetError):  # a rerun knows what is spent
            run(server, tmp_path, bazaar(24), budget=budget, **price)
        assert sum(billed) <= budget
        assert sum(billed) > 0 or budget < 0.1
        pairs, outcome = run(server, tmp_path, bazaar(24), budget=20, **price)
    assert (outcome.done, len(pairs)) == (24, 240)


def test_a_dry_run_asks_nobody_and_is_about_right(tmp_path):
    past = bazaar(400)
    with LLMServer() as server:
        config = settings(server.url, price_in=1, price_out=1)
        told = estimate(config, past, pool())
        assert not server.requests
        run(server, tmp_path, past.take(np.arange(2)))
        real = sum(len(m["content"]) for request in server.requests for m in request.body["messages"]) / 4 / 2
    assert (told.users, told.requests) == (400, 1600)
    # our server's questions and answers are short, those that the prompts ask for are not
    assert real < told.prompt_tokens / 400 < real + 4 * 10 * 110
    assert told.cost == pytest.approx((told.prompt_tokens + told.completion_tokens) / 1e6)
    assert not list(tmp_path.parent.glob("llm-*"))


@pytest.mark.parametrize("concurrency", [64, 3])
def test_as_many_are_in_flight_as_there_may_be(tmp_path, concurrency):
    together = threading.Barrier(concurrency)  # which no smaller number would ever pass

    def script(_: Request, before: int) -> None:
        if before < concurrency:
            together.wait(20)

    with LLMServer(script) as server:
        run(server, tmp_path, bazaar(concurrency + 3), concurrency=concurrency)
    assert server.most_in_flight == concurrency
    assert len(server.requests) == 4 * (concurrency + 3)


def test_a_refused_key_ends_it_at_once(tmp_path):
    with LLMServer(lambda *_: Response(status=401)) as server, pytest.raises(ConfigError, match="401"):
        run(server, tmp_path, bazaar(50), concurrency=4)
    assert len(server.requests) <= 4


def test_a_server_that_fails_one_user_is_asked_again_by_a_rerun(tmp_path):
    ill = True

    def script(request: Request, _: int) -> Response | None:
        return Response(status=500) if ill and request.user == 2 else None

    with LLMServer(script) as server:
        pairs, outcome = run(server, tmp_path, bazaar(5), max_retries=1)
        assert outcome.set_aside == {"topics: server error": 1}
        ill = False
        server.requests.clear()
        healed, outcome = run(server, tmp_path, bazaar(5), max_retries=1)
        assert asked(server) == {2: 4}
    assert len(pairs) == 40
    assert len(healed) == 50
    assert outcome.set_aside == {}
    assert outcome.took.requests == 4 * 5 + 2


def test_a_server_that_fails_everyone_is_left_alone(tmp_path):
    with LLMServer(lambda *_: Response(status=500)) as server:
        with pytest.raises(DataError, match=r"the last 1\d users gave no pair.*topics: server error"):
            run(server, tmp_path, bazaar(200), max_retries=0, concurrency=4)
        assert len(server.requests) < 20


def test_only_what_has_changed_is_asked_again(tmp_path):
    with LLMServer() as server:
        run(server, tmp_path, bazaar(3))
        moved = profiles([[(1, "bill", "Stall 0", 12.0), (2, "bill", "Black tea", 4.0)]], ["customer-0000"])
        server.requests.clear()
        run(server, tmp_path, moved)
        assert asked(server) == {0: 4}
        server.requests.clear()
        run(server, tmp_path, bazaar(3))  # the former profiles are still known
        assert not server.requests
        run(server, tmp_path, bazaar(3), concurrency=2, redact=["Peru"], timeout_s=9)  # nothing that matters
        assert not server.requests
        run(server, tmp_path, bazaar(3), model="other")
        assert len(server.requests) == 12
    assert len(list(tmp_path.glob("llm-*.jsonl"))) == 2


@pytest.fixture
def heeds_ctrl_c():
    """A test run in the background of a shell ignores SIGINT, and so would what it tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_keeps_what_is_done(tmp_path):
    def script(request: Request, before: int) -> None:
        if before == 22:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)

    with LLMServer(script) as server:
        config = settings(server.url, concurrency=2)
        with pytest.raises(KeyboardInterrupt):
            synthesize(config, bazaar(20), pool(), tmp_path, backoff_s=TINY)
        assert len(server.requests) < 30
        _, outcome = collect(config, bazaar(20), pool(), tmp_path)
        assert 3 <= outcome.done <= 6
        assert outcome.set_aside["not asked"] > 11
        finished = {n for n, count in asked(server).items() if count == 4}
        server.script = None
        before = asked(server)
        pairs, outcome = run(server, tmp_path, bazaar(20), concurrency=2)
        twice = [n for n in finished if asked(server)[n] != before[n]]
    assert len(twice) <= 2  # those whose last reply was under way
    assert outcome.done == 20
    assert len(pairs) == 200


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from synthesis_world import bazaar, pool, settings
from qanchor.useru.synthesis.synthesize import synthesize
synthesize(settings({url!r}, concurrency=4), bazaar(24), pool(), Path({folder!r}))
"""


def test_killed_in_the_middle_it_goes_on_with_each_user_exactly_once(tmp_path):
    enough = threading.Event()

    def script(request: Request, before: int) -> None:
        time.sleep(0.01)
        if before == 40:
            enough.set()

    with LLMServer(script) as server:
        code = KILLED.format(here=str(HERE), url=server.url, folder=str(tmp_path))
        with subprocess.Popen([sys.executable, "-c", code]) as process:
            assert enough.wait(60)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        (journal,) = tmp_path.glob("llm-*.jsonl")
        finished = [
            json.loads(line)["user_id"] for line in journal.read_bytes().splitlines(keepends=True) if line[-1:] == b"\n"
        ]
        assert 8 <= len(finished) < 24
        with journal.open("ab") as file:
            file.write(b'{"user_id": "customer-00')  # as a kill in the middle of a write would leave it
        server.script = None
        server.requests.clear()
        pairs, outcome = run(server, tmp_path, bazaar(24), concurrency=4)
        counts = asked(server)
    assert not {f"customer-{n:04d}" for n in counts} & set(finished)
    assert len(counts) + len(finished) == 24
    assert outcome.done == 24
    assert pairs["user_id"].value_counts()["count"].to_list() == [10] * 24
    assert pairs.select("user_id", "as_of").unique(maintain_order=True).equals(bazaar(24).keys())
    assert sorted(json.loads(line)["user_id"] for line in journal.read_bytes().splitlines()) == sorted(
        bazaar(24).user_ids
    )


def test_without_an_llm_it_says_what_to_set(tmp_path):
    with pytest.raises(ConfigError, match=r"useru\.llm"):
        estimate(settings(uqa=0), bazaar(1), pool())


def test_the_guides_settings_are_valid():
    guide = (HERE.parents[2] / "docs" / "useru-llm.md").read_text(encoding="utf-8")
    told = yaml.safe_load(guide.partition("```yaml\n")[2].partition("```")[0])["useru"]
    llm = LLM(**told["llm"])
    assert Redactor(llm.redact, ()).clean("a@b.c, 13800138000.") == ("[redacted] [redacted].", 2)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"base_url": "localhost:8000/v1"}, "expected an address"),
        ({"base_url": "https://me:secret@llm.example/v1"}, "`key_env`"),
        ({"redact": ["("]}, "not a regular expression"),
        ({"redact": [r"\d*"]}, "matches the empty text"),
        ({"api_key": "secret"}, "unknown key `useru.llm.api_key`"),
    ],
)
def test_a_wrong_setting_is_refused_at_the_door(setting, says):
    with pytest.raises(ConfigError, match=re.escape(says)) as refused:
        settings(**{"url": "http://127.0.0.1:9/v1", **setting})
    assert "secret" not in str(refused.value)
