"""The daily job with store and embeddings in a bucket: the same bytes as on the disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from daily_world import World, refresh, rows, save_model, some_rows

from qanchor import storage
from qanchor.events.ingest import ingest


def test_a_refresh_in_a_bucket_equals_one_on_the_disk(tmp_path: Path, s3: str) -> None:
    bucket = storage.place(f"{s3}/daily", Path())
    world = World(tmp_path, save_model(tmp_path / "model"))
    for days in (range(6), range(6, 8)):
        world.log(f"to-{days.stop}", some_rows(4, days))
        ingest(world.config, bucket / "store")
        local = world.job(days.stop)
        remote = replace(local, store=bucket / "store", snapshots=bucket / "embeddings", profiles=tmp_path / "kept")
        assert refresh(remote) == refresh(local)
        assert rows(remote) == rows(local) != {}
    before = storage.files(f"{bucket}/embeddings/**", Path())
    assert all(report.up_to_date for report in refresh(remote))
    assert storage.files(f"{bucket}/embeddings/**", Path()) == before
