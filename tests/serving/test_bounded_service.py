"""What the service keeps does not grow with the requests that it has answered."""

from __future__ import annotations

import threading

import pytest
from service_world import FREE, refreshed, serving

from qanchor.errors import BusyError
from qanchor.serving import inbox as inboxes
from qanchor.serving.inbox import Arrival, Inbox
from qanchor.serving.reader import QUERY_SETS

LIMIT = 80_000
"""Bytes of warm users: about half of them."""


def test_users_questions_and_metrics_are_kept_up_to_a_limit(tmp_path):
    with serving(refreshed(tmp_path / "world"), tmp_path, warm_bytes=LIMIT) as client:
        reader, users = client.service.world.reader, [f"u{n}" for n in range(7)]

        def ask(user, query):
            assert client.post("/v1/embed", json={"user_ids": [user], "queries": [query]}).json()["errors"] == []
            kept = list(reader.warm._readings.values())
            assert reader.warm.nbytes == sum(one.nbytes for one in kept) <= LIMIT
            assert len(client.service.batcher) == 0
            return len(client.get("/metrics").text.splitlines())

        series = [ask(user, FREE) for user in users]
        for n in range(QUERY_SETS + 40):
            series.append(ask(users[n % 7], f"question {n}?"))
            client.get(f"/nothing/here/{n}")
        assert 0 < len(reader.warm) < len(users)
        assert reader.warm.nbytes > LIMIT // 2
        assert reader._tokens.cache_info().currsize == QUERY_SETS
        assert len(set(series[20:])) == 1  # no user, question or path makes a series of its own


def test_appends_wait_up_to_a_limit(tmp_path, monkeypatch):
    hold, commit = threading.Event(), Inbox._commit

    def held(self, db, group):
        hold.wait()
        commit(self, db, group)

    monkeypatch.setattr(Inbox, "_commit", held)
    inbox = Inbox(tmp_path / "inbox.sqlite")
    futures = []

    def append(n):
        said = ((n, 0, n, 1.0, ("bill", "bill", "rent")),)
        futures.append(inbox.append([Arrival(str(n), "bill/*.csv", "u", {}, said)]))

    def fill():
        for n in range(2 * inboxes.WAITING):
            append(n)

    with pytest.raises(BusyError, match="wait for the disk"):
        fill()
    assert len(inbox) == inboxes.WAITING
    hold.set()
    assert all(future.result() == [True] for future in futures)  # who was let in is written
    inbox.close()
