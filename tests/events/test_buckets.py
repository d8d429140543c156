"""Logs, store and embeddings in a bucket: against a real S3 server of this process, and fsspec's `memory://`."""

from __future__ import annotations

import datetime as dt
import gzip
from itertools import count
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from conftest import S3_SECRET
from events_world import BILL, WINDOWS, project, some_bills, write
from rich.console import Console
from upath import UPath

from qanchor import embeddings, storage
from qanchor.config import Config
from qanchor.errors import ConfigError, DataError
from qanchor.events import store as store_module
from qanchor.events.ingest import ingest
from qanchor.events.labels import label
from qanchor.events.profiles import Profiles
from qanchor.events.store import EventStore
from qanchor.pipeline import Project
from qanchor.storage import Place

AS_OF = dt.datetime(2025, 2, 20)
folders = count()


@pytest.fixture(params=["s3", "memory"])
def bucket(request: pytest.FixtureRequest) -> Place:
    """An empty folder of a store."""
    root = request.getfixturevalue("s3") if request.param == "s3" else "memory://bucket"
    return storage.place(f"{root}/{next(folders)}", Path())


def upload(local: Path, bucket: Place) -> None:
    for path in (local / "logs").iterdir():
        (bucket / "logs" / path.name).write_bytes(path.read_bytes())


def some_logs(local: Path) -> None:
    write(local / "logs/a.parquet", some_bills(200))
    write(local / "logs/b.csv", some_bills(60, "2025-02-02", days=2).with_columns(shop=pl.lit("b")))
    write(local / "logs/c.jsonl", some_bills(30, "2025-02-03").with_columns(shop=pl.lit("c")))
    plain = write(local / "d.csv", some_bills(30, "2025-02-01").with_columns(shop=pl.lit("d")))
    (local / "logs/d.csv.gz").write_bytes(gzip.compress(plain.read_bytes() + b",,no user and no time,,\n"))


def in_bucket(local: Path, bucket: Place, **settings: object) -> Config:
    return project(local, {**BILL, "path": f"{bucket}/logs/*"}, max_reject_rate=0.2, **settings)


def profiles(config: Config, root: Place) -> Profiles:
    users = pl.DataFrame({"user_id": [f"u{n}" for n in range(6)]}).with_columns(as_of=pl.lit(AS_OF))
    return EventStore.open(config, root).profiles(users)


def assert_equal(ours: Profiles, theirs: Profiles) -> None:
    for name in ("user_ids", "as_of", "offsets", "time", "modality", "text", "value"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), strict=True)
    assert ours.texts.text == theirs.texts.text


def shard_files(root: Place) -> list[str]:
    """Their names carry a hash of their content."""
    return sorted("/".join(path.parts[-2:]) for path in (root / "events").glob("day=*/shard=*"))


def content(root: Place) -> dict[str, bytes]:
    """Every object of a store, but the report of the last run."""
    paths = storage.files(f"{root}/**", Path())
    found = {str(path).removeprefix(f"{root}/"): path.read_bytes() for path in paths}
    del found["report.json"]
    return found


def test_a_bucket_holds_what_the_disk_holds(tmp_path: Path, bucket: Place) -> None:
    some_logs(tmp_path)
    upload(tmp_path, bucket)
    local, remote = project(tmp_path, max_reject_rate=0.2), in_bucket(tmp_path, bucket)
    here, there = ingest(local, tmp_path / "store"), ingest(remote, bucket / "store")
    assert (
        (there.rows, there.events, there.rejects)
        == (here.rows, here.events, here.rejects)
        == (321, 320, {"no user": 1})
    )
    assert there.files_read == [f"{bucket}/{part}" for part in here.files_read]
    assert shard_files(bucket / "store") == shard_files(tmp_path / "store") != []
    assert_equal(profiles(remote, bucket / "store"), profiles(local, tmp_path / "store"))
    ((log,),) = [list((bucket / "store/rejects").glob("**/*.jsonl"))]
    assert '"reason": "no user"' in log.read_text()

    before = content(bucket / "store")
    again = ingest(remote, bucket / "store")
    assert (again.files_read, again.events, again.days_published) == ([], 0, [])
    assert content(bucket / "store") == before
    assert {name.split("/")[0] for name in before} == {
        "store.json",
        "texts.parquet",
        "events",
        "ingested.json",
        "rejects",
    }

    write(tmp_path / "logs/late.csv", some_bills(20, "2025-02-01").with_columns(shop=pl.lit("late")))
    upload(tmp_path, bucket)
    ingest(local, tmp_path / "store")
    late = ingest(remote, bucket / "store")
    # S3 tags a file by its content, so that the others, put there again, count as the same
    assert late.files_read == [f"{bucket}/logs/late.csv"] or bucket.protocol == "memory"
    assert shard_files(bucket / "store") == shard_files(tmp_path / "store")
    assert_equal(profiles(remote, bucket / "store"), profiles(local, tmp_path / "store"))


def test_a_file_that_loses_a_day_takes_it_along(tmp_path: Path, bucket: Place) -> None:
    write(tmp_path / "logs/a.parquet", some_bills(40))
    upload(tmp_path, bucket)
    config = in_bucket(tmp_path, bucket)
    ingest(config, bucket / "store")
    write(tmp_path / "logs/a.parquet", some_bills(40, "2025-02-02", days=1))
    upload(tmp_path, bucket)
    ingest(config, bucket / "store")
    assert {name.split("/")[0] for name in shard_files(bucket / "store")} == {"day=2025-02-02"}
    assert EventStore.open(config, bucket / "store").days() == [dt.date(2025, 2, 2)]


def test_a_reader_beside_a_second_ingest_sees_the_old_day_or_the_new(
    tmp_path: Path, bucket: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "logs/a.parquet", some_bills(60))
    upload(tmp_path, bucket)
    config, scan = in_bucket(tmp_path, bucket), store_module._scan
    ingest(config, bucket / "store")
    before, replaced = profiles(config, bucket / "store"), False

    def replace_first(paths: list[Place], start: int, end: int) -> pl.LazyFrame:
        nonlocal replaced
        if not replaced:
            replaced = True
            write(tmp_path / "logs/a.parquet", some_bills(60).with_columns(shop=pl.lit("new")))
            upload(tmp_path, bucket)
            ingest(config, bucket / "store")
        return scan(paths, start, end)

    monkeypatch.setattr(store_module, "_scan", replace_first)
    after = profiles(config, bucket / "store")
    assert after.counts.tolist() == before.counts.tolist()
    assert {after.texts.text[row] for row in after.text} == {"new"}


def test_one_ingest_at_a_time(tmp_path: Path, bucket: Place) -> None:
    write(tmp_path / "logs/a.parquet", some_bills(5))
    upload(tmp_path, bucket)
    config = in_bucket(tmp_path, bucket)
    with pytest.raises(DataError, match=r'another ingest is writing to .*store \({"host": .*delete .*ingest.lock'):
        ingest(config, bucket / "store", lambda stage, done: ingest(config, bucket / "store"))
    # the first has let go of the lock, although it failed
    assert ingest(config, bucket / "store").events == 5


def test_a_damaged_store_says_so(tmp_path: Path, bucket: Place) -> None:
    write(tmp_path / "logs/a.parquet", some_bills(60))
    upload(tmp_path, bucket)
    ingest(in_bucket(tmp_path, bucket), bucket / "store")
    for path in (bucket / "store/events").glob("day=2025-02-01/shard=*"):
        path.unlink()
    with pytest.raises(DataError, match="ingest it again"):
        profiles(in_bucket(tmp_path, bucket), bucket / "store")


def test_embeddings_come_back(bucket: Place) -> None:
    keys = pl.DataFrame({"user_id": ["a", "b", "c"]}).with_columns(as_of=pl.lit(AS_OF))
    vectors_NGO = np.random.default_rng(0).normal(size=(3, 2, 8)).astype(np.float32)
    embeddings.write(bucket / "embeddings/base.parquet", keys, ["one", "two"], vectors_NGO)
    for g, name in enumerate(("one", "two")):
        np.testing.assert_array_equal(embeddings.read(bucket / "embeddings/base.parquet", name), vectors_NGO[:, g])
        np.testing.assert_array_equal(embeddings.read_all(bucket / "embeddings/base.parquet")[name], vectors_NGO[:, g])
    assert [path.name for path in storage.files(f"{bucket}/**", Path())] == ["base.parquet"]


def test_labels_are_read_from_a_bucket(tmp_path: Path, bucket: Place) -> None:
    write(tmp_path / "logs/a.parquet", some_bills(60))
    upload(tmp_path, bucket)
    (bucket / "labels.csv").write_text("user_id,as_of,label\nu1,2025-02-20,1\nu2,2025-02-20,0\n")
    scenarios = {"churn": {"query": "Will they leave?", "labels": f"{bucket}/labels.csv"}}
    config = in_bucket(tmp_path, bucket, scenarios=scenarios)
    ingest(config, bucket / "store")
    past = profiles(config, bucket / "store")
    np.testing.assert_array_equal(label(config, "churn", past, past), [np.nan, 1, 0, np.nan, np.nan, np.nan])


def test_a_project_names_its_bucket_once(tmp_path: Path, bucket: Place, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "logs/a.parquet", some_bills(60))
    upload(tmp_path, bucket)
    data = {
        "name": "shop",
        "sources": [{**BILL, "path": f"{bucket}/logs/*"}],
        "windows": WINDOWS,
        "storage": str(bucket),
    }
    (tmp_path / "qanchor.yaml").write_text(yaml.safe_dump(data))
    for said in ("60 events published", "ingest: up to date"):
        project = Project.open(tmp_path / "qanchor.yaml", tmp_path / "run", Console(width=200))
        project.ingest()
        assert said in capsys.readouterr().out
        assert project.store.days()[0] == dt.date(2025, 2, 1)
    assert not (tmp_path / "run/store").exists()


def test_an_address_holds_no_password(tmp_path: Path) -> None:
    for name, said in (
        (f"s3://key:{S3_SECRET}@bucket/logs/*", "holds a user name or password"),
        ("ftp://host/logs/*", "expected s3://, gs://, memory://"),
    ):
        with pytest.raises(ConfigError, match=said) as error:
            ingest(project(tmp_path, {**BILL, "path": name}), tmp_path / "store")
        assert S3_SECRET not in str(error.value)


def test_an_error_shows_no_password() -> None:
    with pytest.raises(DataError, match=r"//\*\*\*@host") as error, storage.reaching(UPath("memory://a")):
        raise OSError(f"no answer from http://me:{S3_SECRET}@host/bucket\n<?xml {S3_SECRET}>")
    assert S3_SECRET not in str(error.value)


def test_what_a_bucket_lacks_is_said_in_one_line(tmp_path: Path, s3: str) -> None:
    with pytest.raises(DataError, match="no file matches"):
        ingest(in_bucket(tmp_path, UPath(f"{s3}/nothing")), tmp_path / "store")
    write(tmp_path / "logs/a.parquet", some_bills(5))
    with pytest.raises(DataError, match="no event store at s3://other/store"):
        EventStore.open(project(tmp_path), UPath("s3://other/store"))
    with pytest.raises(DataError, match=r"cannot reach s3://other/store.*AWS_ENDPOINT_URL") as error:
        ingest(project(tmp_path), UPath("s3://other/store"))
    assert S3_SECRET not in str(error.value)
    assert "\n" not in str(error.value)
