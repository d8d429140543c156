from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from events_world import BILL, bills, by_day, content, fileset, project, rejects, some_bills, write

from qanchor.errors import CollisionError, ConfigError, DataError, RejectRateError
from qanchor.events import ingest as ingest_module
from qanchor.events import texts
from qanchor.events.ingest import ingest
from qanchor.events.partitions import Partitions


def touch(path: Path) -> None:
    """Make a file look changed, so that it is read again."""
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))


def test_twice_is_once(tmp_path: Path) -> None:
    log = write(tmp_path / "logs/a.parquet", some_bills(200))
    config, store = project(tmp_path), tmp_path / "store"
    first = ingest(config, store)
    before = fileset(store)
    second = ingest(config, store)
    touch(log)
    third = ingest(config, store)
    assert (first.events, first.files_read, len(first.days_published)) == (200, ["logs/a.parquet"], 3)
    assert (second.events, second.files_read, second.files_skipped) == (0, [], ["logs/a.parquet"])
    assert (third.events, third.files_skipped) == (200, [])
    assert fileset(store) == before
    assert len(content(store)) == 200


def test_order_of_arrival_does_not_matter(tmp_path: Path) -> None:
    first, second = some_bills(80), some_bills(60, "2025-02-02").with_columns(shop=pl.lit("late"))
    write(tmp_path / "logs/b.parquet", first)
    ingest(project(tmp_path), tmp_path / "store")
    write(tmp_path / "logs/a.parquet", second)
    ingest(project(tmp_path), tmp_path / "store")
    ingest(project(tmp_path), tmp_path / "at once")
    assert fileset(tmp_path / "store") == fileset(tmp_path / "at once")


def test_changed_file_replaces_its_rows_in_every_day_that_it_touched(tmp_path: Path) -> None:
    kept = ("u1", "2025-02-01 10:00:00", "kept", "food", 1.0)
    write(tmp_path / "logs/a.csv", bills(kept))
    write(tmp_path / "logs/b.csv", bills(("u1", "2025-02-01 09:00:00", "old", "food", 2.0), *[
        (f"u{n}", "2025-02-02 09:00:00", "old", "food", 2.0) for n in range(4)
    ]))  # fmt: skip
    config, store = project(tmp_path), tmp_path / "store"
    ingest(config, store)
    write(tmp_path / "logs/b.csv", bills(("u1", "2025-02-03 09:00:00", "new", "food", 3.0)))
    report = ingest(config, store)
    assert [event[4] for event in content(store)] == ["kept", "new"]
    assert report.files_read == ["logs/b.csv"]
    assert report.days_published == [dt.date(2025, 2, day) for day in (1, 2, 3)]
    assert [path.name for path in sorted((store / "events").iterdir())] == ["day=2025-02-01", "day=2025-02-03"]


def test_late_rows_join_their_day(tmp_path: Path) -> None:
    write(tmp_path / "logs/a.csv", bills(("u1", "2025-02-01 10:00:00", "early", "food", 1.0)))
    config, store = project(tmp_path), tmp_path / "store"
    ingest(config, store)
    write(tmp_path / "logs/b.csv", bills(("u1", "2025-02-01 09:00:00", "late", "food", 2.0)))
    ingest(config, store)
    assert [event[4] for event in content(store)] == ["late", "early"]


def test_changed_template_reads_every_file_again(tmp_path: Path) -> None:
    write(tmp_path / "logs/a.parquet", some_bills(10))
    ingest(project(tmp_path), tmp_path / "store")
    reworded = project(tmp_path, {"path": "logs/*", **BILL, "text": "{kind} at {shop}"})
    ingest(reworded, tmp_path / "store")
    assert {event[4] for event in content(tmp_path / "store")} == {f"food at shop {n}" for n in range(7)}


def test_file_of_two_sources_is_one_part(tmp_path: Path) -> None:
    write(tmp_path / "logs/a.parquet", some_bills(6))
    visits = {"path": "./logs/*.parquet", "user": "user", "time": "time", "modality": "visit", "text": "{kind}"}
    config = project(tmp_path, {"path": "logs/*", **BILL}, visits)
    ingest(config, tmp_path / "store")
    write(tmp_path / "logs/a.parquet", some_bills(4))
    ingest(config, tmp_path / "store")
    assert sorted(event[2] for event in content(tmp_path / "store")) == ["bill"] * 4 + ["visit"] * 4


class Killed(BaseException):
    pass


def test_killed_at_any_switch_each_day_is_old_or_new_and_a_rerun_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = write(tmp_path / "logs/a.parquet", some_bills(40))
    config, replace = project(tmp_path), os.replace
    ingest(config, tmp_path / "old")
    write(log, some_bills(40, "2025-02-02").with_columns(shop=pl.col("shop") + " new"))
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    ingest(config, tmp_path / "new")
    old, new, done = by_day(tmp_path / "old"), by_day(tmp_path / "new"), fileset(tmp_path / "new")

    switches = 0
    while True:
        store = tmp_path / f"killed-{switches}"
        shutil.copytree(tmp_path / "old", store)
        calls = 0

        def dies(new_path: Path, path: Path, at: int = switches) -> None:
            nonlocal calls
            calls += 1
            if calls > at:
                raise Killed
            replace(new_path, path)

        monkeypatch.setattr(os, "replace", dies)
        try:
            ingest(config, store)
            break
        except Killed:
            pass
        finally:
            monkeypatch.setattr(os, "replace", replace)
        seen = by_day(store)
        assert all(seen.get(day) in (old.get(day), new.get(day)) for day in old.keys() | new.keys() | seen.keys())
        ingest(config, store)
        assert fileset(store) == done
        switches += 1
    assert switches > 10


def test_file_put_back_after_a_kill_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = write(tmp_path / "logs/a.parquet", some_bills(40))
    config, store, replace = project(tmp_path), tmp_path / "store", os.replace
    ingest(config, store)
    before = by_day(store)
    shutil.copy2(log, tmp_path / "backup")
    write(log, some_bills(40).with_columns(shop=pl.lit("new")))

    def dies(new: Path, path: Path) -> None:
        if path.name == "day.json" and "02-02" in str(path):
            raise Killed
        replace(new, path)

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(Killed):
        ingest(config, store)
    monkeypatch.setattr(os, "replace", replace)
    assert by_day(store) != before
    shutil.copy2(tmp_path / "backup", log)
    ingest(config, store)
    assert by_day(store) == before


def test_sigkill_leaves_the_old_day_whole(tmp_path: Path) -> None:
    log = write(tmp_path / "logs/a.parquet", some_bills(60))
    config, store = project(tmp_path), tmp_path / "store"
    ingest(config, store)
    old = by_day(store)
    write(log, some_bills(60).with_columns(shop=pl.col("shop") + " new"))
    ingest(config, tmp_path / "expected")
    script = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from events_world import project
from qanchor.events.ingest import ingest
replace = os.replace
def dies(new, path):
    if Path(path).name == "day.json" and "02-02" in str(path):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(new, path)
os.replace = dies
ingest(project(Path({str(tmp_path)!r})), Path({str(store)!r}))
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    killed = by_day(store)
    assert killed[dt.date(2025, 2, 2)] == old[dt.date(2025, 2, 2)]
    assert {day: len(events) for day, events in killed.items()} == {day: len(events) for day, events in old.items()}
    ingest(config, store)
    assert by_day(store) == by_day(tmp_path / "expected")


BAD_ROWS = [
    ("no user", "user", (None, "2025-02-01 10:00:00", "s", "k", "1")),
    ("no user", "user", ("  ", "2025-02-01 10:00:00", "s", "k", "1")),
    ("no time", "time", ("u", None, "s", "k", "1")),
    ("time not understood", "time", ("u", "yesterday", "s", "k", "1")),
    ("time out of range", "time", ("u", "1970-01-01", "s", "k", "1")),
    ("time out of range", "time", ("u", "2999-01-01", "s", "k", "1")),
    ("time out of range", "time", ("u", "1738404000000", "s", "k", "1")),
    ("template column missing", "shop", ("u", "2025-02-01", None, "k", "1")),
    ("template column missing", "kind", ("u", "2025-02-01", "s", "", "1")),
    ("wrong type", "amount", ("u", "2025-02-01", "s", "k", "a lot")),
    ("wrong type", "amount", ("u", "2025-02-01", "s", "k", "1e99")),
]


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_bad_rows_are_refused_with_file_row_and_reason(tmp_path: Path, ending: str) -> None:
    good = ("u", "2025-02-01 10:00:00", "s", "k", None)
    rows = [row for _, _, bad in BAD_ROWS for row in (good, bad)]
    columns = ["user", "time", "shop", "kind", "amount"]
    write(tmp_path / f"logs/a.{ending}", pl.DataFrame(rows, dict.fromkeys(columns, pl.String), orient="row"))
    report = ingest(project(tmp_path, max_reject_rate=0.9), tmp_path / "store")
    found = rejects(tmp_path / "store")
    assert [(line["row"], line["reason"], line["column"]) for line in found] == [
        (2 * n + 2, reason, column) for n, (reason, column, _) in enumerate(BAD_ROWS)
    ]
    assert all(line["file"] == f"logs/a.{ending}" for line in found)
    assert found[3]["content"] == dict(zip(columns, ("u", "yesterday", "s", "k", "1"), strict=True))
    assert report.rejects["time out of range"] == 3
    assert report.events == len(content(tmp_path / "store")) == len(BAD_ROWS)


def test_ragged_and_broken_lines(tmp_path: Path) -> None:
    csv = tmp_path / "logs/a.csv"
    write(csv, some_bills(100))
    lines = csv.read_text().splitlines()
    lines.insert(51, "u1,2025-02-01")
    csv.write_text("\n".join(lines) + "\nu9,2025-02-01,a,b,1,what\n")
    lines = write(tmp_path / "logs/b.jsonl", some_bills(100)).read_text().splitlines()
    lines[20] = lines[20][:-5]
    (tmp_path / "logs/b.jsonl").write_text("\n".join(lines) + "\n[1]\n\n" + r'{"user": "u\ud83d"}' + "\n")
    report = ingest(project(tmp_path, max_reject_rate=0.1), tmp_path / "store")
    assert [(line["file"], line["row"], line["reason"]) for line in rejects(tmp_path / "store")] == [
        ("logs/a.csv", 51, "ragged row"),
        ("logs/a.csv", 102, "ragged row"),
        ("logs/b.jsonl", 21, "broken line"),
        ("logs/b.jsonl", 101, "broken line"),
        ("logs/b.jsonl", 103, "broken line"),
    ]
    assert report.rejects == {"broken line": 3, "ragged row": 2}
    assert report.events == 199


def damage(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def damage_inside(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
    path.write_bytes(data)


def test_broken_files_are_refused_whole_and_the_others_published(tmp_path: Path) -> None:
    write(tmp_path / "logs/good.csv", some_bills(10))
    damage(write(tmp_path / "logs/cut.parquet", some_bills(5_000)))
    pq.write_table(some_bills(5_000).to_arrow(), tmp_path / "logs/hit.parquet", write_page_checksum=True)
    damage_inside(tmp_path / "logs/hit.parquet")
    (tmp_path / "logs/latin.csv").write_bytes(
        write(tmp_path / "x.csv", some_bills(3)).read_bytes() + b"u,2025,\xe9,k,1\n"
    )
    (tmp_path / "logs/utf16.csv").write_text((tmp_path / "x.csv").read_text(), encoding="utf-16")
    (tmp_path / "logs/cut.csv.gz").write_bytes(b"\x1f\x8b\x08\x00not gzip")
    (tmp_path / "logs/empty.csv").write_bytes(b"")
    with pytest.raises(RejectRateError, match="and 3 more"):
        ingest(project(tmp_path), tmp_path / "store")
    report = json.loads((tmp_path / "store/report.json").read_text())
    assert {Path(part).name for part in report["files_refused"]} == {
        "cut.parquet", "hit.parquet", "latin.csv", "utf16.csv", "cut.csv.gz", "empty.csv"
    }  # fmt: skip
    assert "iconv" in report["files_refused"]["logs/latin.csv"]
    assert report["rejects"]["broken file"] == 6
    assert len(content(tmp_path / "store")) == 10
    for path in (tmp_path / "logs").iterdir():
        if path.name != "good.csv":
            path.unlink()
    assert ingest(project(tmp_path), tmp_path / "store").files_skipped == ["logs/good.csv"]


def test_broken_file_keeps_its_old_rows(tmp_path: Path) -> None:
    log = write(tmp_path / "logs/a.parquet", some_bills(500))
    ingest(project(tmp_path), tmp_path / "store")
    before = fileset(tmp_path / "store")
    damage(log)
    with pytest.raises(RejectRateError, match=r"a\.parquet \(broken file"):
        ingest(project(tmp_path), tmp_path / "store")
    assert fileset(tmp_path / "store") == before


def test_missing_column_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "logs/a.parquet", some_bills(5).rename({"amount": "amounts"}))
    with pytest.raises(RejectRateError, match="no column `amount`; did you mean `amounts`"):
        ingest(project(tmp_path), tmp_path / "store")


def test_reject_rate_stops_a_day_and_only_that_day(tmp_path: Path) -> None:
    log = write(tmp_path / "logs/a.parquet", some_bills(300))
    config, store = project(tmp_path), tmp_path / "store"
    ingest(config, store)
    old = by_day(store)
    second_day = pl.col("time").dt.date() == dt.date(2025, 2, 2)
    fresh = some_bills(300).with_columns(shop=pl.col("shop") + " new")
    write(log, fresh.with_columns(shop=pl.when(second_day & (pl.col("amount") < 26)).then(None).otherwise("shop")))
    with pytest.raises(RejectRateError, match=r"2025-02-02 \(4.0% refused\); expected at most 1.0%"):
        ingest(config, store)
    now = by_day(store)
    assert now[dt.date(2025, 2, 2)] == old[dt.date(2025, 2, 2)]
    assert now[dt.date(2025, 2, 1)] != old[dt.date(2025, 2, 1)]
    with pytest.raises(RejectRateError):
        ingest(config, store)
    assert ingest(project(tmp_path, max_reject_rate=0.05), store).days_refused == {}
    assert len(by_day(store)[dt.date(2025, 2, 2)]) == 96


def test_rows_without_a_day_count_against_the_file(tmp_path: Path) -> None:
    times = pl.when(pl.int_range(pl.len()) < 3).then(pl.lit("never")).otherwise(pl.col("time").cast(pl.String))
    write(tmp_path / "logs/a.parquet", some_bills(200).with_columns(times.alias("time")))
    with pytest.raises(RejectRateError, match="3 of 200 rows have no usable time"):
        ingest(project(tmp_path), tmp_path / "store")
    assert content(tmp_path / "store") == []
    assert len(rejects(tmp_path / "store")) == 4
    report = ingest(project(tmp_path, max_reject_rate=0.02), tmp_path / "store")
    assert (report.events, report.rejects) == (197, {"time not understood": 3})


def test_raw_numbers_are_not_printed(tmp_path: Path) -> None:
    config = project(tmp_path, {"path": "logs/*", **BILL, "text": "{shop} for {amount}"})
    for name in ("a.parquet", "a.csv", "a.jsonl"):
        path = write(tmp_path / "logs" / name, some_bills(20))
        with pytest.raises(ConfigError, match=r"write \{amount:band\}, or drop it and set `value: amount`"):
            ingest(config, tmp_path / "store")
        path.unlink()
    assert not (tmp_path / "store/store.json").exists()


def test_collision_names_both_texts_and_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "logs/a.parquet", some_bills(50))

    class Colliding(texts.TextTable):
        def __init__(self, path: Path) -> None:
            super().__init__(
                path, lambda modality, category, text: len(text) if "3" in text or "4" in text else hash(text) % 2**64
            )

    monkeypatch.setattr(ingest_module, "TextTable", Colliding)
    with pytest.raises(CollisionError, match=r"'bill / food / shop 3' and 'bill / food / shop 4'"):
        ingest(project(tmp_path), tmp_path / "store")
    assert not (tmp_path / "store/events").exists()


def test_store_cut_differently_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "logs/a.parquet", some_bills(5))
    ingest(project(tmp_path), tmp_path / "store")
    with pytest.raises(DataError, match="has shards 2, the config has 3: put the config back, or delete the store"):
        ingest(project(tmp_path, shards=3), tmp_path / "store")
    with pytest.raises(DataError, match=r"has modalities \('bill',\), the config has \('pay',\)"):
        ingest(project(tmp_path, {"path": "logs/*", **BILL, "modality": "pay"}), tmp_path / "store")


def test_one_ingest_at_a_time(tmp_path: Path) -> None:
    write(tmp_path / "logs/a.parquet", some_bills(5))
    config = project(tmp_path)

    def again(stage: str, done: int) -> None:
        ingest(config, tmp_path / "store")

    with pytest.raises(DataError, match="another ingest is writing"):
        ingest(config, tmp_path / "store", again)


def test_progress_counts_rows_and_days(tmp_path: Path) -> None:
    write(tmp_path / "logs/a.parquet", some_bills(50))
    seen: dict[str, int] = {}
    ingest(project(tmp_path), tmp_path / "store", lambda stage, done: seen.update({stage: seen.get(stage, 0) + done}))
    assert seen == {"read": 50, "publish": 3}


def test_source_without_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file matches `path: logs/\*`"):
        ingest(project(tmp_path), tmp_path / "store")


def test_nothing_is_left_beside_what_day_json_names(tmp_path: Path) -> None:
    write(tmp_path / "logs/a.parquet", some_bills(50))
    ingest(project(tmp_path), tmp_path / "store")
    write(tmp_path / "logs/b.parquet", some_bills(20))
    ingest(project(tmp_path), tmp_path / "store")
    store = Partitions.open(tmp_path / "store")
    for day in store.days():
        named = {*store.day(day).files.values(), "day.json"}
        assert {path.name for path in store.folder(day).iterdir()} == named
    assert not list((tmp_path / "store").rglob("*.tmp"))
    assert not (tmp_path / "store/staging").exists()
