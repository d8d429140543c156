"""Each endpoint says what the engine and the store say, and nothing more."""

from __future__ import annotations

import base64
import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from service_world import DAY, FREE, QUERIES, START, embedded, refreshed, serving, vectors

from qanchor.inference.search import direction
from qanchor.useru.statements import Framing

AS_OF = START + 12 * DAY
USERS = ["u0", "u1", "u2"]
NAMES = list(QUERIES)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return refreshed(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def client(project, tmp_path_factory):
    with serving(project, tmp_path_factory.mktemp("keys")) as client:
        yield client


def ask(client, **asked):
    return client.post("/v1/embed", json={"user_ids": USERS, **asked})


def test_stored_and_computed_are_what_the_engine_says(client, project):
    expected = embedded(project, USERS, AS_OF, NAMES, [FREE])
    stored = ask(client, scenarios=NAMES)
    np.testing.assert_allclose(vectors(stored).reshape(3, 2, 16), expected[:, :2], atol=0.02)
    assert client.service.world.reader.misses == 0  # none by the model
    computed = ask(client, scenarios=NAMES, queries=[FREE])
    np.testing.assert_allclose(vectors(computed).reshape(3, 3, 16), expected, atol=0.02)
    assert [(item["user_id"], item.get("scenario"), item.get("query")) for item in computed.json()["data"][:3]] == [
        ("u0", "coffee", None),
        ("u0", "rent", None),
        ("u0", None, FREE),
    ]
    assert {item["as_of"] for item in computed.json()["data"]} == {"2025-03-13T00:00:00Z"}
    misses = client.service.world.reader.misses
    np.testing.assert_allclose(vectors(ask(client, queries=[FREE])), expected[:, 2], atol=0.02)
    assert client.service.world.reader.misses == misses  # warm: suffixes only


def test_base64_and_arrow_equal_json(client):
    plain = vectors(ask(client, scenarios=NAMES))
    packed = ask(client, scenarios=NAMES, encoding_format="base64").json()["data"]
    np.testing.assert_array_equal([np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in packed], plain)
    asked = {"user_ids": [*USERS, "moon"], "scenarios": NAMES}
    reply = client.post("/v1/embed", json=asked, headers={"accept": "application/vnd.apache.arrow.stream"})
    table = pa.ipc.open_stream(reply.content).read_all()
    assert table["user_id"].to_pylist() == ["u0", "u0", "u1", "u1", "u2", "u2", "moon"]
    assert table["question"].to_pylist() == [*NAMES, *NAMES, *NAMES, None]
    assert table["embedding"][6].as_py() is None
    assert "no events" in table["error"][6].as_py()
    np.testing.assert_array_equal(np.array(table["embedding"].to_pylist()[:6], np.float32), plain)


def test_appended_events_are_there_once_and_as_of_now(client, project):
    row = {"user": "u1", "time": AS_OF + 3600, "word": "hotel by the sea", "value": 3.5}
    new = {"user": "newcomer", "time": "2025-03-13T02:00:00", "word": "coffee"}
    events = [{"id": "a", "row": row}, {"id": "b", "row": new}, {"id": "c", "row": {"user": "u1", "word": "rent"}}]
    reply = client.post("/v1/events", json={"source": "bill", "events": events}).json()
    assert (reply["accepted"], reply["duplicates"]) == (2, 0)
    assert reply["errors"] == [{"id": "c", "reason": "no time: time"}]
    reply = client.post("/v1/events", json={"source": "logs/bill-*.parquet", "events": events[:1]}).json()
    assert (reply["accepted"], reply["duplicates"]) == (0, 1)

    moment = AS_OF + 6 * 3600
    asked = {"user_ids": ["u1", "newcomer"], "scenarios": NAMES, "as_of": "2025-03-13T06:00:00Z"}
    live = vectors(client.post("/v1/embed", json=asked))
    before = vectors(client.post("/v1/embed", json=asked | {"user_ids": ["u1"], "as_of": "2025-03-13T01:00:00Z"}))
    client.portal.call(client.service.deliver)
    project.project.ingest()  # reads what the service has written into the logs' folder
    np.testing.assert_allclose(live.reshape(2, 2, 16), embedded(project, ["u1", "newcomer"], moment, NAMES), atol=0.02)
    np.testing.assert_allclose(before, embedded(project, ["u1"], AS_OF + 3600, NAMES)[0], atol=0.02)
    assert np.abs(live[:2] - before).max() > 0.05


def test_a_timeline_has_what_was_appended(client):
    sent = {"source": "mini", "events": [{"id": "t", "row": {"user": "u2", "time": AS_OF + 60, "word": "never heard"}}]}
    assert client.post("/v1/events", json=sent).json()["accepted"] == 1
    newest = client.get("/v1/users/u2/events", params={"as_of": "2025-03-13T06:00:00Z"}).json()["data"][0]
    assert newest == {"time": "2025-03-13T00:01:00Z", "modality": "mini", "text": "never heard", "value": None}
    assert client.get("/v1/users/u2/events").json()["data"][0]["text"] != "never heard"
    assert client.get("/v1/users/moon/events").status_code == 404


def test_scenarios_are_listed_registered_and_kept(client, project):
    listed = {item["name"]: item for item in client.get("/v1/scenarios").json()["data"]}
    assert listed["coffee"] == {
        "name": "coffee", "query": QUERIES["coffee"], "tuned": True, "stored": True, "scored": False
    }  # fmt: skip
    asked = {"name": "hotel", "query": FREE}
    assert [client.post("/v1/scenarios", json=asked).status_code for _ in range(2)] == [201, 200]
    assert client.post("/v1/scenarios", json=asked | {"query": "another?"}).status_code == 409
    expected = embedded(project, USERS, AS_OF, queries=[FREE])[:, 0]
    np.testing.assert_allclose(vectors(ask(client, scenarios=["hotel"])), expected, atol=0.02)
    from qanchor.serving.world import Scenarios

    assert Scenarios(client.service.folder / "scenarios.json", QUERIES).registered == {"hotel": FREE}


def test_search_is_the_matrix_product(client, project):
    matrix = client.service.world.shelf.matrices["coffee"]
    reply = client.post("/v1/search", json={"scenario": "coffee", "user_id": "u3", "k": 4}).json()["data"]
    product = matrix.embedding_NO @ matrix.get("u3")
    assert [item["user_id"] for item in reply] == [matrix.users[int(row)].as_py() for row in np.argsort(-product)[:4]]
    assert reply[0]["user_id"] == "u3"
    said = client.post("/v1/search", json={"scenario": "coffee", "sentence": "buys coffee", "k": 1000}).json()["data"]
    assert len(said) == len(matrix.users)
    assert sorted(item["similarity"] for item in said)[::-1] == [item["similarity"] for item in said]
    vector_O = direction(client.service.world.reader.model, Framing.of(project.project.config), "buys coffee")
    assert said[0]["similarity"] == pytest.approx((matrix.embedding_NO @ vector_O).max(), abs=0.02)


def test_a_bad_user_fails_alone(client, monkeypatch):
    reader = client.service.world.reader
    plain = type(reader)._read

    def fails(self, lives, words):
        if any(live.user_id == "u1" for live in lives.values()):
            raise RuntimeError("secret: u1")
        return plain(self, lives, words)

    monkeypatch.setattr(type(reader), "_read", fails)
    reader.warm.limit = 0
    reader.warm.forget("u1")
    reply = ask(client, queries=["is this a question that nobody asked?"]).json()
    assert [item["user_id"] for item in reply["data"]] == ["u0", "u2"]
    assert reply["errors"] == [{"user_id": "u1", "reason": "the model cannot read this user"}]


def test_a_past_or_unknown_user_has_a_reason(client):
    asked = {"user_ids": ["u0"], "scenarios": NAMES, "as_of": "2025-03-12T00:00:00Z"}
    assert "before the last refresh" in client.post("/v1/embed", json=asked).json()["errors"][0]["reason"]
    now = client.post("/v1/embed", json=asked | {"as_of": "now"}).json()
    assert now["errors"] == [{"user_id": "u0", "reason": "no events in the window"}]  # the logs are of 2025


def test_health_status_and_metrics(client):
    assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
    status = client.get("/v1/status").json()
    assert (status["as_of"], status["stale"], set(status["shards"].values())) == ("2025-03-13", None, {"2025-03-13"})
    text = client.get("/metrics").text
    assert 'qanchor_requests_total{route="/v1/embed",status="200"}' in text
    assert "u1" not in text
    assert dt.datetime.fromisoformat(status["loaded"]).tzinfo
