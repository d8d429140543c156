"""The client against a server that misbehaves: what is asked again, what ends the run, what is counted."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import socket
import sys
import threading
import time
from typing import Any

import pytest
from llm_server import LLMServer, Request, Response
from synthesis_world import settings

from qanchor.config import LLM
from qanchor.errors import ConfigError
from qanchor.useru.synthesis.client import LONGEST_WAIT, Client, UnansweredError, ceiling, retry_after
from qanchor.useru.synthesis.ledger import Tally
from qanchor.useru.synthesis.replies import Topics

GOOD = json.dumps({"topics": ["tea"]})
TINY = 0.002
"""Seconds of the first back-off."""
PROMPT = 'Name the topics, exactly 1 different. {"topics": []}'


def ask(llm: LLM, tally: Tally, backoff_s: float = TINY) -> Topics:
    async def once() -> Topics:
        async with Client(llm, backoff_s) as client:
            return await client.ask(Topics, "Be brief.", PROMPT, ["tea", "food"], 1, 100, tally)

    return asyncio.run(once())


def first(*bad: Response) -> Any:
    """A script: these responses in turn, then a good one."""
    return lambda request, before: bad[before] if before < len(bad) else Response(GOOD)


def llm(server: LLMServer, **options: Any) -> LLM:
    found = settings(server.url, **options).useru.llm
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (Response(status=429), "rate limit"),
        (Response(status=500), "server error"),
        (Response(status=503, raw=b"<html>busy</html>", headers={"content-type": "text/html"}), "server error"),
        (Response(GOOD, delay=9), "timeout"),
        (Response(GOOD[:9]), "malformed"),
        (Response(""), "malformed"),
        (Response(json.dumps({"topics": ["yachts"]})), "malformed"),
        (Response(GOOD, finish="length"), "truncated"),
        (Response(status=400, raw=b'{"error": {"message": "no", "code": "content_filter"}}'), "content filter"),
        (Response(raw=b'{"choices": [{"mess'), "malformed"),
        (Response(raw=b'{"choices": []}'), "malformed"),
        (Response(raw=b"[1, 2]"), "malformed"),
        (Response(raw=b"hello", headers={"content-type": "text/plain"}), "malformed"),
    ],
)
def test_a_bad_reply_is_asked_for_again_and_counted(bad, reason):
    tally = Tally()
    with LLMServer(first(bad, bad)) as server:
        assert ask(llm(server, timeout_s=0.6 if reason == "timeout" else 30), tally).topics == ["tea"]
    assert tally.retries == {reason: 2}
    assert tally.requests == 3


def test_nobody_is_asked_for_ever():
    tally = Tally()
    with LLMServer(lambda *_: Response(status=500)) as server, pytest.raises(UnansweredError) as failed:
        ask(llm(server, max_retries=3), tally)
    assert len(server.requests) == tally.requests == 4
    assert tally.retries == {"server error": 3}
    assert failed.value.again


def test_a_server_that_is_not_there():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: refused
        tally = Tally()
        refused = settings(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", max_retries=2).useru.llm
        with pytest.raises(UnansweredError, match="connection"):
            ask(refused, tally)  # type: ignore[arg-type]
    assert tally.retries == {"connection": 2}
    assert tally.prompt_tokens == 0  # what was never sent costs nothing


def test_the_model_is_told_what_was_wrong():
    with LLMServer(first(Response(json.dumps({"topics": ["yachts"]})))) as server:
        ask(llm(server), Tally())
    again = server.requests[1].prompt
    assert again.startswith(PROMPT)
    assert "there is no topic yachts" in again


def test_retry_after_holds_everyone_back():
    def script(request: Request, before: int) -> Response:
        return Response(status=429, headers={"retry-after": "1"}) if before == 0 else Response(GOOD)

    async def two(llm: LLM) -> None:
        async with Client(llm, TINY) as client:
            early = asyncio.create_task(client.ask(Topics, "", PROMPT, ["tea"], 1, 100, Tally()))
            while not client._not_before:
                await asyncio.sleep(0.01)
            await asyncio.gather(early, client.ask(Topics, "", PROMPT, ["tea"], 1, 100, Tally()))

    with LLMServer(script) as server:
        asyncio.run(two(llm(server)))
    start, *later = [request.time for request in server.requests]
    assert len(later) == 2
    assert min(later) - start >= 1


def test_retry_after_is_read_as_seconds_or_as_a_date():
    now = dt.datetime(2026, 3, 1, 12, 0, 0, tzinfo=dt.UTC)
    assert retry_after("1.5", now) == 1.5
    assert retry_after("Sun, 01 Mar 2026 12:00:30 GMT", now) == 30
    assert retry_after("Sun, 01 Mar 2026 12:00:30 -0000", now) == 30
    assert retry_after("Sun, 01 Mar 2026 11:00:00 GMT", now) == 0
    assert retry_after("86400", now) == LONGEST_WAIT
    assert [retry_after(word, now) for word in (None, "soon", "", "-3", "nan")] == [0] * 5


def test_waits_double_and_are_jittered():
    client = Client(settings().useru.llm, 1.0)  # type: ignore[arg-type]
    for attempt, longest in ((1, 1), (2, 2), (5, 16), (30, LONGEST_WAIT)):
        waits = {client._backoff(attempt) for _ in range(50)}
        assert len(waits) > 1
        assert longest / 2 <= min(waits) <= max(waits) <= longest


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, r"127.0.0.1.*401 no, sk-\S*\*\*\*.*look at the key in \$BAZAAR_KEY"),
        (403, "look at the key"),
        (404, r"`model` \(tiny\)"),
        (400, "lower `max_lines`"),
        (413, "lower `max_lines`"),
    ],
)
def test_some_answers_end_it_at_once_without_showing_the_key(status, says, monkeypatch):
    monkeypatch.setenv("BAZAAR_KEY", "very-secret")
    bad = Response("no, sk-very-secret", status=status)
    with LLMServer(first(bad)) as server, pytest.raises(ConfigError, match=says) as ended:
        ask(llm(server, key_env="BAZAAR_KEY"), Tally())
    assert len(server.requests) == 1
    assert "very-secret" not in str(ended.value)


def test_an_empty_account_ends_it_too():
    raw = b'{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}'
    with LLMServer(first(Response(status=429, raw=raw))) as server, pytest.raises(ConfigError, match="its credit"):
        ask(llm(server), Tally())


def test_a_profile_goes_nowhere_but_to_the_address_of_the_config():
    with LLMServer() as elsewhere:
        moved = Response(status=307, headers={"location": elsewhere.url + "/chat/completions"})
        with LLMServer(first(moved)) as server, pytest.raises(ConfigError, match="answered 307"):
            ask(llm(server), Tally())
    assert not elsewhere.requests


def test_the_key_goes_to_the_server_and_nowhere_else(monkeypatch, capsys, caplog):
    monkeypatch.setenv("BAZAAR_KEY", "very-secret")
    caplog.set_level("DEBUG")
    with LLMServer(first()) as server:
        options = llm(server, key_env="BAZAAR_KEY")
        ask(options, Tally())
        assert server.requests[0].headers["authorization"] == "Bearer very-secret"
        shown = repr(Client(options)) + repr(options) + caplog.text + "".join(capsys.readouterr())
    assert "very-secret" not in shown
    assert "key ***" in repr(Client(options))
    monkeypatch.delenv("BAZAAR_KEY")
    assert "key unset" in repr(Client(options))


def test_a_server_is_spoken_to_as_it_likes():
    """No json_schema, then no json_object; the newer name of the limit; no temperature. It is no retry."""
    said = [
        "'response_format.json_schema' is not supported",
        "This response_format type is unavailable now",
        "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
        "Unsupported value: 'temperature' does not support 0.7 with this model.",
    ]
    tally = Tally()
    with LLMServer(first(*(Response(words, status=400) for words in said))) as server:
        ask(llm(server), tally)
    sent = [request.body for request in server.requests]
    formats = [body.get("response_format", {}).get("type") for body in sent]
    assert formats == ["json_schema", "json_object", None, None, None]
    assert [("max_tokens" in body, "temperature" in body) for body in sent[2:]] == [
        (True, True),
        (False, True),
        (False, False),
    ]
    assert sent[4]["max_completion_tokens"] == 100
    assert not tally.retries


def test_two_requests_find_out_together_what_a_server_does_not_like():
    together = threading.Barrier(2)

    def script(request: Request, before: int) -> Response:
        if before > 1:
            return Response(GOOD)
        together.wait(20)
        return Response("no json_schema here", status=400)

    async def both(llm: LLM) -> None:
        async with Client(llm, TINY) as client:
            await asyncio.gather(*(client.ask(Topics, "", PROMPT, ["tea"], 1, 100, Tally()) for _ in range(2)))

    with LLMServer(script) as server:
        asyncio.run(both(llm(server)))
    last = [request.body.get("response_format", {}).get("type") for request in server.requests[2:]]
    assert last == ["json_object", "json_object"]


def test_tokens_are_the_servers_count_or_a_guess_and_a_silent_server_is_booked_at_the_most():
    told, guessed, silent = Tally(), Tally(), Tally()
    with LLMServer(first(Response(GOOD, usage=(321, 45)))) as server:
        ask(llm(server), told)
    with LLMServer(first(Response(GOOD, usage=None))) as server:
        ask(llm(server), guessed)
    with LLMServer(first(Response(GOOD, delay=0.5))) as server, pytest.raises(UnansweredError, match="no reply within"):
        ask(llm(server, timeout_s=0.1, max_retries=0), silent)
    most = ceiling(Topics, len(("Be brief." + PROMPT).encode()), 100)
    assert (told.prompt_tokens, told.completion_tokens) == (321, 45)
    assert (guessed.prompt_tokens, guessed.completion_tokens) == (16, 5)
    assert silent == most


def test_a_reply_that_drips_in_for_ever_is_cut_off():
    """The deadline is for the whole reply, not for the next byte of it."""
    with socket.create_server(("127.0.0.1", 0)) as drip:

        def serve() -> None:
            connection, _ = drip.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99999\r\n\r\n"
                )
                try:
                    while True:
                        connection.sendall(b" ")
                        time.sleep(0.02)
                except OSError:
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        slow = settings(f"http://127.0.0.1:{drip.getsockname()[1]}/v1", timeout_s=0.2, max_retries=0).useru.llm
        start = time.monotonic()
        with pytest.raises(UnansweredError, match="timeout"):
            ask(slow, Tally())  # type: ignore[arg-type]
        assert time.monotonic() - start < 5
        thread.join(2)


def test_without_the_sdk_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigError, match=r"pip install 'qanchor\[llm\]'"):
        Client(settings().useru.llm)  # type: ignore[arg-type]
