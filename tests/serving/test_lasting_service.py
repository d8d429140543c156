"""What lasts through kills, new models, refreshes, and what does not last: users who are to be forgotten."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from service_world import DAY, FREE, QUERIES, START, embedded, log, look, refreshed, save_model, serving, vectors

from qanchor import embeddings
from qanchor.errors import DataError
from qanchor.forget import forget
from qanchor.inference.engine import QAnchor
from qanchor.inference.makers import makers
from qanchor.model import persistence
from qanchor.serving import delivery
from qanchor.serving import inbox as inboxes
from qanchor.serving.inbox import Appended, Arrival, Inbox
from qanchor.serving.probes import fit, fit_probes, load_probes

APPENDER = Path(__file__).parent / "appender.py"


def event(id: str, user: str = "u1", second: int = 13 * DAY, word: str = "hotel"):
    return {"id": id, "row": {"user": user, "time": START + second, "word": word, "value": 1.0}}


def append(client, *events):
    return client.post("/v1/events", json={"source": "bill", "events": list(events)})


def test_killed_while_appending_every_acknowledged_event_is_there_once(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run(
        [sys.executable, APPENDER, tmp_path / "inbox.sqlite"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert said.returncode == 0, said.stderr
    acknowledged = said.stdout.split()
    appended = Appended(tmp_path / "inbox.sqlite")
    db = appended._db
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    there = [id for (id,) in db.execute("SELECT id FROM arrival")]
    assert len(there) == len(set(there))
    assert set(acknowledged) <= set(there)
    assert len(acknowledged) > 20
    torn = "SELECT count(*) FROM arrival WHERE n NOT IN (SELECT arrival FROM said)"
    assert db.execute(torn).fetchone() == (0,)
    assert db.execute("SELECT count(*) FROM said").fetchone() == (len(there),)
    appended.close()


def test_a_refresh_and_a_model_are_taken_up_without_a_failed_request(tmp_path):
    project = refreshed(tmp_path / "world")
    with serving(project, tmp_path) as client:
        old = client.service.world
        asked = {"user_ids": ["u0", "u1"], "scenarios": ["coffee"]}
        free = {"user_ids": ["u0"], "queries": [FREE]}
        statuses, done = [], threading.Event()

        def ask():
            while not done.is_set():
                for body in (asked, free):
                    reply = client.post("/v1/embed", json=body)
                    statuses.append(reply.status_code)
                    assert not reply.json().get("errors"), reply.text

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        append(client, event("e", second=12 * DAY + 60))
        client.portal.call(client.service.deliver)
        log(tmp_path / "world", "later", [("u0", 12 * DAY + 5, "mini", "metro", None)])
        project.refresh(None)
        look(client)
        assert str(client.service.world.shelf.as_of) == "2025-03-14"
        expected = embedded(project, ["u0", "u1"], START + 13 * DAY, ["coffee"])
        np.testing.assert_allclose(vectors(client.post("/v1/embed", json=asked))[:, None], expected, atol=0.02)

        save_model(tmp_path / "world" / "run" / "model", seed=1)  # a model that has not refreshed yet
        look(client)
        assert client.service.world.fingerprint == old.fingerprint
        assert "has not refreshed" in client.get("/v1/status").json()["stale"]
        project.refresh(None)
        look(client)
        new = client.service.world
        assert new.fingerprint != old.fingerprint
        expected = embedded(project, ["u0", "u1"], START + 13 * DAY, ["coffee"])
        np.testing.assert_allclose(vectors(client.post("/v1/embed", json=asked))[:, None], expected, atol=0.02)
        done.set()
        asking.join()
        assert set(statuses) == {200}, statuses
        assert len(statuses) > 5


def test_what_a_refresh_has_read_counts_once_as_of_now(tmp_path):
    project = refreshed(tmp_path / "world")
    with serving(project, tmp_path) as client:
        append(client, event("e", second=12 * DAY + 60))
        asked = {"user_ids": ["u1"], "scenarios": ["coffee"], "as_of": "2025-03-14T00:00:00Z"}
        before = vectors(client.post("/v1/embed", json=asked))
        client.portal.call(client.service.deliver)
        project.refresh(None)
        look(client)
        np.testing.assert_allclose(vectors(client.post("/v1/embed", json=asked)), before, atol=0.02)
        assert append(client, event("e", second=12 * DAY + 60)).json()["duplicates"] == 1


def test_a_forgotten_user_is_nowhere(tmp_path):
    project = refreshed(tmp_path / "world")
    with serving(project, tmp_path) as client:
        append(client, event("e"), event("f", user="u2"))
        client.portal.call(client.service.deliver)
        now = {"user_ids": ["u1", "u2"], "scenarios": ["coffee"], "as_of": "2025-03-15T00:00:00Z"}
        assert len(vectors(client.post("/v1/embed", json=now))) == 2
        traces = {item["place"]: item for item in client.delete("/v1/users/u1").json()["data"]}
        assert traces["appended events"] == {"place": "appended events", "before": 1, "after": 0}
        assert {item["after"] for item in traces.values()} == {0}
        for asked in (now, now | {"as_of": "refresh"}):
            reply = client.post("/v1/embed", json=asked).json()
            assert [item["user_id"] for item in reply["data"]] == ["u2"]
        assert append(client, event("g")).json()["errors"] == [{"id": "g", "reason": "this user was forgotten"}]
        assert b"u1" not in (client.service.folder / "inbox.sqlite").read_bytes()
        files = list((tmp_path / "world" / "logs").glob("bill-inbox-*"))
        assert [pl.read_parquet(file)["user"].to_list() for file in files] == [["u2"]]
    with serving(project, tmp_path / "again") as client:
        assert append(client, event("h")).json()["accepted"] == 0


def test_forgotten_by_the_command_line_or_while_a_new_model_waits(tmp_path):
    project = refreshed(tmp_path / "world")
    with serving(project, tmp_path) as client:
        append(client, event("e"), event("f", user="u2"))
        save_model(tmp_path / "world" / "run" / "model", seed=1)  # it cannot be taken up
        assert client.delete("/v1/users/u1").status_code == 200
        for asked in ({"scenarios": ["coffee"]}, {"queries": [FREE]}, {"scenarios": ["coffee"], "as_of": "now"}):
            assert not client.post("/v1/embed", json={"user_ids": ["u1"], **asked}).json()["data"]
        found = client.post("/v1/search", json={"scenario": "coffee", "user_id": "u0", "k": 100}).json()["data"]
        assert "u1" not in [item["user_id"] for item in found]
        assert client.post("/v1/search", json={"scenario": "coffee", "user_id": "u1"}).status_code == 404
        project.refresh(None)
        forget(project, ["u2"])
        look(client)
        assert client.get("/v1/status").json()["appended"] == 0


def test_old_hours_are_dropped_whole_once_a_refresh_has_read_them(tmp_path, monkeypatch):
    inbox = Inbox(tmp_path / "inbox.sqlite")

    def arrive(id, moment, hour):
        monkeypatch.setattr(inboxes.time, "time", lambda: hour * 3600)
        said = ((moment, 0, 1, 1.0, ("bill", "bill", "rent")),)
        return inbox.append([Arrival(id, "bill/*.csv", "u", {"id": id}, said)]).result() == [True]

    times = {"old": (10, 1), "beside a newer one": (10, 2), "newer": (99, 2), "late": (10, 8), "not delivered": (10, 3)}
    assert all(arrive(id, *when) for id, when in times.items())
    appended = Appended(inbox.path)
    for hour, count in ((1, 1), (2, 2), (8, 1)):
        appended.delivered("bill/*.csv", hour, count)
    appended.drop_before(50, 5 * 3600)
    left = [row["id"] for hour in range(9) for row in appended.rows("bill/*.csv", hour)]
    assert sorted(left) == ["beside a newer one", "late", "newer", "not delivered"]
    assert len(appended.since("u", 0, 100)) == 4
    assert arrive("old", 10, 9)  # nobody remembers it
    appended.delivered("bill/*.csv", 3, 5)  # one came while the file was written
    assert ("bill/*.csv", 3) in appended.due()
    appended.close()
    inbox.close()


def test_a_restart_delivers_what_was_left(tmp_path):
    project = refreshed(tmp_path / "world")
    with serving(project, tmp_path) as client:
        append(client, event("e"))
        assert not list((tmp_path / "world" / "logs").glob("*inbox*"))
    assert len(list((tmp_path / "world" / "logs").glob("*inbox*"))) == 1
    appended = Appended(project.project.out / "serving" / "inbox.sqlite")
    assert appended.due() == []
    assert delivery.deliver(project.project.config, appended) == 0
    appended.close()


def test_scores_are_the_probes_on_the_embeddings(tmp_path):
    project = refreshed(tmp_path / "world")
    random = np.random.default_rng(0)
    X = random.standard_normal((300, 16)).astype(np.float32)
    y = (X[:, 0] + 0.5 * random.standard_normal(300) > 0.5).astype(np.float32)
    with serving(project, tmp_path) as client:
        world = client.service.world
        made_by = makers(world.reader.model, world.fingerprint)
        probe = fit("coffee", made_by["coffee"], (X[:200], y[:200]), (X[200:], y[200:]))
        assert probe.auc > 0.9
        assert probe(X[:200]).mean() == pytest.approx(y[:200].mean(), abs=0.02)
        probe.save(tmp_path / "world" / "run" / "probes" / "coffee.safetensors")
        assert load_probes(tmp_path / "world" / "run" / "probes", {"coffee": "another prompt"}) == {}
        look(client)
        asked = {"user_ids": ["u0", "moon"], "scenarios": ["coffee"]}
        reply = client.post("/v1/score", json=asked).json()
        stored = vectors(client.post("/v1/embed", json=asked))
        assert reply["data"][0]["probability"] == pytest.approx(float(probe(stored)[0]))
        assert [item["user_id"] for item in reply["errors"]] == ["moon"]


def test_probes_are_fitted_on_embeddings_of_the_model_that_lies_there(tmp_path):
    daily = refreshed(tmp_path)
    project, path = daily.project, daily.project.out / "embeddings" / "tuned.parquet"
    own = makers(model := QAnchor.from_pretrained(project.out / "model"), persistence.fingerprint(model.towers))
    random = np.random.default_rng(0)
    keys = pl.DataFrame({"user_id": ["a"] * 9}).with_columns(as_of=pl.lit(dt.datetime(2025, 4, 1)))
    vectors_NGO = random.standard_normal((9, 2, 16)).astype(np.float32)

    def write(made_by):
        embeddings.write(path, keys, list(QUERIES), vectors_NGO, made_by=made_by)

    for made_by in (None, own | {"rent": "another prompt"}, {"coffee": own["coffee"]}):
        write(made_by)
        with pytest.raises(DataError, match=r"rent not by the model.*qanchor evaluate.*embed\.json"):
            fit_probes(project)
    write(own)
    y = np.array([0, 1, 0, 1, 1, 0, 1, 0, 1], np.float32)
    project.__dict__ |= {"labels": dict.fromkeys(QUERIES, y)}
    project.requests = pl.DataFrame({"split": ["train"] * 5 + ["validation"] * 4})
    assert set(fit_probes(project)) == set(QUERIES)
    assert set(load_probes(project.out / "probes", own)) == set(QUERIES)
    save_model(project.out / "model", seed=1)  # trained again, embeddings left as they are
    with pytest.raises(DataError, match="coffee, rent not by the model"):
        fit_probes(project)
