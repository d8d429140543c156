"""`encrypt: true`: everything is as without, and nothing of a user lies in the clear in what serving keeps."""

from __future__ import annotations

import base64
import datetime as dt
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from daily_world import some_rows
from service_world import DAY, QUERIES, START, daily, log, save_model, serving, vectors

from qanchor import embeddings as written
from qanchor.cli import main
from qanchor.errors import ConfigError, DataError, SealError
from qanchor.events.master_key import FILE, SERVICE, VARIABLE, LocalKey, make_key_file
from qanchor.forget import forget

KEY = LocalKey(b"m" * 32)
USERS = [f"someone-{n}" for n in range(7)]
KEPT = ("embeddings", "profiles", "serving")
"""Folders of the run that are sealed."""


def a_key_service():
    return KEY


def rows(days: range):
    return [(f"someone-{user[1:]}", *rest) for user, *rest in some_rows(7, days)]


def kept_files(root: Path) -> dict[Path, bytes]:
    files = [path for folder in KEPT for path in sorted((root / "run" / folder).rglob("*")) if path.is_file()]
    return {path.relative_to(root): path.read_bytes() for path in files if "audit" not in path.parts}


def embeddings(project) -> dict[tuple[str, str], bytes]:
    (as_of,) = {state.as_of for state in project.profiles.states().values()}
    snapshot, found = project.snapshot(as_of), {}
    for name in QUERIES:
        for shard in range(2):
            user_N, embedding_NO = snapshot.read(name, shard)
            found |= {(name, user): row.tobytes() for user, row in zip(user_N.to_pylist(), embedding_NO, strict=True)}
    return found


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """The same project, in the clear and sealed, refreshed twice: the second time most rows are taken over."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, base64.b64encode(KEY.secret).decode())
        found = []
        for encrypt in (False, True):
            root = tmp_path_factory.mktemp("world")
            save_model(root / "run" / "model")
            for last in (11, 12):
                log(root, "all", rows(range(last)))
                report = daily(root, encrypt).refresh(None)
            found.append((root, daily(root, encrypt), report))
        yield found


@pytest.fixture
def copied(worlds, tmp_path, monkeypatch):
    """Of the sealed one."""
    monkeypatch.setenv(VARIABLE, base64.b64encode(KEY.secret).decode())
    return Path(shutil.copytree(worlds[1][0], tmp_path / "world"))


def test_everything_equals_the_run_in_the_clear(worlds):
    (_, clear, one), (_, sealed, other) = worlds
    assert one == other
    assert one.carried
    assert embeddings(clear) == embeddings(sealed)
    for user in USERS:
        events, same = clear.profiles.events(user), sealed.profiles.events(user)
        assert events[0] == same[0]
        np.testing.assert_array_equal(events[1], same[1])


def test_nothing_of_a_user_is_in_the_sealed_files(worlds):
    (root, clear, _), (sealed_root, _, _) = worlds
    event = clear.profiles.events("someone-0")[1].tobytes()
    some = next(iter(embeddings(clear).values()))
    open_, sealed = (b"".join(kept_files(place).values()) for place in (root, sealed_root))
    for trace in (b"someone", event[:12], some[:12]):
        assert trace in open_
        assert trace not in sealed


def test_the_service_answers_the_same_and_its_inbox_shows_nothing(worlds, copied, tmp_path):
    root = Path(shutil.copytree(worlds[0][0], tmp_path / "clear"))
    row = {"user": "someone-1", "time": START + 12 * DAY + 5, "word": "flight to rome", "value": 7.5}
    new = row | {"user": "someone-new"}
    asked = {"user_ids": [*USERS, "someone-new"], "scenarios": list(QUERIES), "as_of": "2025-03-14T00:00:00Z"}
    answers = []
    for place, encrypt in ((root, False), (copied, True)):
        for run in ("first", "again"):
            with serving(daily(place, encrypt), tmp_path / f"{run}{encrypt}") as client:
                body = {"source": "bill", "events": [{"id": "pay-4711", "row": row}, {"id": "pay-4712", "row": new}]}
                reply = client.post("/v1/events", json=body).json()
                assert (reply["accepted"], reply["duplicates"]) == ((2, 0) if run == "first" else (0, 2))
                answers.append(vectors(client.post("/v1/embed", json=asked)))
                said = client.get("/v1/users/someone-1/events?as_of=2025-03-14T00:00:00Z").text
                assert "flight to rome" in said
                inbox = b"".join(path.read_bytes() for path in (place / "run" / "serving").glob("inbox*"))
                for trace in (b"someone-1", b"someone-new", b"flight to rome", b"pay-4711"):
                    assert (trace in inbox) != encrypt
                if run == "again":
                    traces = client.delete("/v1/users/someone-new").json()["data"]
                    assert next(t for t in traces if t["place"] == "appended events")["before"] == 1
                    assert "no events" in client.post("/v1/embed", json=asked).json()["errors"][0]["reason"]
                    delivered = b"".join(path.read_bytes() for path in (place / "logs").glob("*inbox*"))
                    assert b"someone-1" in delivered
                    assert b"someone-new" not in delivered
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer, answers[0])


def test_whoever_is_forgotten_is_gone(copied):
    project = daily(copied, True)
    traces = {trace.place: (trace.before, trace.after) for trace in forget(project, ["someone-1"])}
    assert traces["profiles"] == (1, 0)
    assert traces["embeddings and pairs"][0] >= 2
    assert traces["embeddings and pairs"][1] == 0
    assert {user for _, user in embeddings(daily(copied, True))} == {*USERS} - {"someone-1"}
    assert b"someone" not in b"".join(kept_files(copied).values())


def test_another_master_key_or_none_is_refused(copied, monkeypatch):
    monkeypatch.setenv(VARIABLE, base64.b64encode(b"x" * 32).decode())
    with pytest.raises(ConfigError, match=r"is wrapped by .* give it that master key"):
        daily(copied, True).refresh(None)
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(ConfigError, match=f"no master key in the environment, expected one: {VARIABLE}"):
        daily(copied, True).refresh(None)
    monkeypatch.setenv(SERVICE, "test_encrypted:nothing")
    with pytest.raises(ConfigError, match=r"expected package\.module:function"):
        daily(copied, True).refresh(None)
    monkeypatch.setenv(SERVICE, "test_encrypted:a_key_service")
    assert daily(copied, True).refresh(None).up_to_date == 2


def test_a_changed_byte_is_refused_by_the_files_name(copied):
    path = next((copied / "run" / "embeddings").glob("as_of=2025-03-13/coffee/shard-0001.parquet"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(SealError, match=r"coffee/shard-0001\.parquet"):
        daily(copied, True).refresh(None)
    database = copied / "run" / "profiles" / "shard-0000.sqlite"
    with sqlite3.connect(database) as db:
        users = [user for (user,) in db.execute("SELECT user_id FROM profile")]
        # two users' rows change places
        db.execute("UPDATE profile SET events = (SELECT events FROM profile WHERE user_id = ?)", (users[0],))
    db.close()
    project, refused = daily(copied, True), 0
    for user in USERS:
        try:
            project.profiles.events(user)
        except SealError:
            refused += 1
    assert refused == len(users) - 1 > 0


def test_rotation_touches_no_data(copied, tmp_path, monkeypatch):
    before = kept_files(copied)
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(base64.b64encode(KEY.secret))
    old.chmod(0o600)
    make_key_file(new)
    with pytest.raises(SystemExit, match="0"):
        main(["vault", "rotate", str(old), str(new), "--out", str(copied / "run")])
    after = kept_files(copied)
    vault = Path("run/serving/vault.json")
    assert before.pop(vault) != after.pop(vault)
    assert before == after
    assert len(before) >= 6
    with pytest.raises(ConfigError, match="wrapped by"):
        daily(copied, True).refresh(None)
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv(FILE, str(new))
    assert daily(copied, True).refresh(None).up_to_date == 2
    assert len(embeddings(daily(copied, True))) == 2 * len(USERS)


def test_a_run_in_the_clear_is_not_sealed_in_part(worlds, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, base64.b64encode(KEY.secret).decode())
    root = Path(shutil.copytree(worlds[0][0], tmp_path / "world"))
    with pytest.raises(DataError, match=r"shard-0000\.sqlite is in the clear, expected sealed .* delete"):
        daily(root, True).refresh(None)
    with pytest.raises(SealError, match="is not sealed, and the config says"):
        daily(root, True).embed(None, ["coffee"], {})
    with pytest.raises(ConfigError, match="Lance"):
        daily(root, True).embed(None, ["coffee"], {}, "lance")


def test_what_evaluate_embeds_is_sealed_too_and_forgotten(copied):
    project = daily(copied, True)
    path = copied / "run" / "embeddings" / "base.parquet"
    keys = pl.DataFrame({"user_id": USERS, "as_of": [dt.datetime(2025, 3, 1)] * 7})
    vectors_NGO = np.random.default_rng(0).normal(size=(7, 2, 4)).astype(np.float32)
    written.write(path, keys, ["coffee", "rent"], vectors_NGO, project.covers)
    np.testing.assert_array_equal(written.read(path, "rent", daily(copied, True).covers), vectors_NGO[:, 1])
    assert b"someone" not in path.read_bytes()
    forget(project, ["someone-3"])
    left = np.delete(vectors_NGO, 3, 0)
    np.testing.assert_array_equal(written.read(path, "coffee", project.covers), left[:, 0])
