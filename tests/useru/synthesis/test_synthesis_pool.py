"""A domain's own topics: what is shown of its logs, what is kept and written, and what has changed."""

from __future__ import annotations

import json
import re

import pytest
from llm_server import LLMServer, Request, Response
from synthesis_world import KEYS, bazaar, pool, profiles, settings

from qanchor.errors import BudgetError, ConfigError, DataError
from qanchor.useru.synthesis.pool import diff, generate
from qanchor.useru.topics import Pool


def script(request: Request, _: int) -> Response | None:
    """Keeps tea and pets; then writes new topics, six at a time, under numbers."""
    if request.step == "keep":
        return Response(json.dumps({"keep": ["pets", "tea"]}))
    count, known = int(re.search(r"up to (\d+)", request.prompt)[1]), request.section("topics")  # type: ignore[index]
    new = pool(tuple(f"side_{len(known) + n}" for n in range(count)))
    return Response(json.dumps({"topics": [topic.model_dump() for topic in new.topics]}))


def test_what_fits_is_kept_and_the_rest_is_written_in_batches():
    with LLMServer(script) as server:
        made = generate(settings(server.url), bazaar(5), pool(), 0.002)
    assert [topic.key for topic in made.topics] == ["tea", "pets", *(f"side_{n}" for n in range(2, 12))]
    assert [request.step for request in server.requests] == ["keep", "pool", "pool"]
    assert "side_7: side_7" in server.requests[2].prompt


def test_a_key_that_is_there_already_is_refused():
    def stubborn(request: Request, before: int) -> Response | None:
        again = Response(json.dumps({"topics": [pool(("tea",)).topics[0].model_dump()]}))
        return again if before == 1 else script(request, before)

    with LLMServer(stubborn) as server:
        made = generate(settings(server.url), bazaar(5), pool(), 0.002)
    assert "keys tea are in the pool already" in server.requests[2].prompt
    assert len({topic.key for topic in made.topics}) == 12


def test_a_model_that_can_think_of_no_more_gives_a_smaller_pool():
    def tired(request: Request, before: int) -> Response | None:
        return Response('{"topics": []}') if before == 2 else script(request, before)

    with LLMServer(tired) as server:
        assert len(generate(settings(server.url), bazaar(5), pool(), 0.002).topics) == 8
    nothing = LLMServer(lambda *_: Response('{"keep": [], "topics": []}'))
    with nothing as server, pytest.raises(DataError, match="kept no topic"):
        generate(settings(server.url), bazaar(5), pool(), 0.002)


def test_only_common_entries_are_shown_and_redacted_ones_are_blotted_out():
    events = [
        [(1, "bill", "Green tea", 4.0), (2, "bill", f"Stall {n}", 1.0), (3, "search", "mail a@b.c", 1.0)]
        for n in range(4)
    ]
    with LLMServer(script) as server:
        generate(settings(server.url, redact=[r"\S+@\S+"]), profiles(events), pool(), 0.002)
    for request in server.requests:
        assert "<logs>\n[bill]\nGreen tea\n[search]\nmail [redacted]\n</logs>" in request.prompt
        assert b"a@b.c" not in request.raw
        assert b"customer-" not in request.raw


def test_what_cannot_be_done():
    with pytest.raises(DataError, match="shared by 3 users"):
        generate(settings(), bazaar(2), pool())
    with pytest.raises(BudgetError):
        generate(settings(price_in=1, price_out=1, budget=0.0001), bazaar(5), pool())
    with pytest.raises(ConfigError, match=r"useru\.llm"):
        generate(
            settings().model_copy(update={"useru": settings().useru.model_copy(update={"llm": None})}),
            bazaar(5),
            pool(),
        )


def test_the_difference_of_two_pools():
    old, new = pool(), pool(("tea", "chess"))
    tea = new.topics[0].model_copy(update={"zh": new.topics[0].zh.model_copy(update={"name": "茶", "words": ("茶",)})})
    lines = diff(old, Pool(topics=(tea, new.topics[1])))
    assert lines == [*(f"- {key}: {key}" for key in KEYS if key != "tea"), "~ tea: zh name, zh words", "+ chess: chess"]
    assert diff(old, pool()) == []
