"""The client, sync and async, against a service in this process."""

from __future__ import annotations

import asyncio

import httpx2
import numpy as np
import pytest
from service_world import DAY, FREE, QUERIES, START, embedded, refreshed, serving

from qanchor.client import AsyncClient, Client, RefusedError
from qanchor.errors import BusyError

NAMES = list(QUERIES)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    project = refreshed(tmp_path_factory.mktemp("world"))
    with serving(project, tmp_path_factory.mktemp("keys")) as client:
        yield client, project


def test_every_verb(served):
    http, project = served
    key = http.keys["everything"]
    client = Client("http://testserver", key, transport=http._transport)
    found = client.embed(["u0", "moon", "u1"], NAMES, [FREE])
    expected = embedded(project, ["u0", "u1"], START + 12 * DAY, NAMES, [FREE])
    np.testing.assert_allclose(found.embedding_NGO, expected, atol=0.02)
    assert (found.users, found.questions) == (["u0", "u1"], [*NAMES, FREE])
    np.testing.assert_array_equal(found.array("u1"), found.embedding_NGO[1])
    with pytest.raises(KeyError, match="no events"):
        found.array("moon")
    row = {"user": "u/1", "time": START + 12 * DAY, "word": "hotel"}
    assert client.append("bill", {"one": row, "two": {"user": "u1"}}).errors == {"two": "no time: time"}
    assert client.register("stay", FREE).name == "stay"
    assert {scenario.name for scenario in client.scenarios()} == {*NAMES, "stay"}
    assert client.search("coffee", user_id="u0", k=1)[0].user_id == "u0"
    assert client.forget("u/1")["appended events"] == (1, 0)
    assert client.status()["as_of"] == "2025-03-13"
    with pytest.raises(RefusedError, match="409: no probe"):
        client.score(["u0"], ["coffee"])
    with pytest.raises(RefusedError, match="401"):
        Client("http://testserver", "qa_wrong", transport=http._transport).status()


def test_the_async_one_says_the_same():
    def reply(request):
        return httpx2.Response(503, json={"error": "busy", "where": []}, headers={"retry-after": "7"})

    async def run():
        async with AsyncClient("http://x", transport=httpx2.MockTransport(reply)) as client:
            await client.embed(["u0"], ["coffee"])

    with pytest.raises(BusyError, match="503: busy") as caught:
        asyncio.run(run())
    assert caught.value.retry_after == 7
