from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import polars as pl
import pytest

from qanchor import config, datasets
from qanchor.datasets import travel
from qanchor.errors import DataError

REAL = Path(__file__).parents[3] / "shared" / "data" / "travel"

SNAPSHOT = {"Score": 17, "ViewCount": 9_999, "AnswerCount": 4, "FavoriteCount": 3, "AcceptedAnswerId": 2}
DUMP_DAY = "2017-08-27T00:00:00.000"
POSTS: list[dict[str, Any]] = [
    {"Id": 1, "PostTypeId": 1, "OwnerUserId": 7, "CreationDate": "2016-05-01T10:00:00.123", "LastEditDate": DUMP_DAY}
    | {"Title": "Transit visa at Heathrow & beyond?", "Tags": "<visas><uk>", **SNAPSHOT},
    {"Id": 2, "PostTypeId": 2, "ParentId": 1, "OwnerUserId": 8, "CreationDate": "2016-05-01T11:00:00.000", **SNAPSHOT},
    {"Id": 3, "PostTypeId": 2, "ParentId": 99, "OwnerUserId": 8, "CreationDate": "2016-05-01T12:00:00.000"},
    {"Id": 4, "PostTypeId": 5, "OwnerUserId": 8, "CreationDate": "2016-05-01T12:00:00.000"},
    {
        "Id": 5,
        "PostTypeId": 1,
        "CreationDate": "2016-05-02T12:00:00.000",
        "Title": "Tipping in the USA",
        "Tags": "|usa|",
    },
    {"Id": 6, "PostTypeId": 2, "ParentId": 5, "OwnerUserId": -1, "CreationDate": "2016-05-02T13:00:00.000"},
]
COMMENTS = [
    {"Id": 1, "PostId": 2, "UserId": 7, "CreationDate": "2016-05-03T10:00:00.000", "Score": 5},
    {"Id": 2, "PostId": 5, "UserId": 9, "CreationDate": "2016-05-03T11:00:00.000"},
    {"Id": 3, "PostId": 5, "CreationDate": "2016-05-03T12:00:00.000"},
    {"Id": 4, "PostId": 4, "UserId": 9, "CreationDate": "2016-05-03T13:00:00.000"},
]
VOTES = [
    {"Id": 1, "PostId": 1, "VoteTypeId": 2, "CreationDate": "2016-05-04T00:00:00.000"},
    {"Id": 2, "PostId": 1, "VoteTypeId": 5, "UserId": 9, "CreationDate": "2016-05-04T00:00:00.000"},
    {"Id": 3, "PostId": 5, "VoteTypeId": 8, "UserId": 7, "CreationDate": "2016-05-05T00:00:00.000", "BountyAmount": 50},
]
BADGES = [
    {"Id": 1, "UserId": 7, "Name": "Student", "Date": "2016-05-01T10:05:00.000", "Class": 3, "TagBased": "False"},
    {"Id": 2, "UserId": 8, "Name": "visas", "Date": "2016-05-01T10:05:00.000", "Class": 1, "TagBased": "True"},
]
DUMP = {"Posts": POSTS, "Comments": COMMENTS, "Votes": VOTES, "Badges": BADGES}


def write_xml(folder: Path, tables: dict[str, list[dict[str, Any]]]) -> Path:
    folder.mkdir()
    for name, rows in tables.items():
        lines = [f"  <row {' '.join(f'{k}={quoteattr(str(v))}' for k, v in row.items())} />" for row in rows]
        text = f'\ufeff<?xml version="1.0" encoding="utf-8"?>\n<{name.lower()}>\n' + "\n".join(lines)
        (folder / f"{name}.xml").write_text(f"{text}\n</{name.lower()}>\n", encoding="utf-8")
    return folder


def write_parquet(folder: Path, tables: dict[str, list[dict[str, Any]]]) -> Path:
    """As XML, but typed: times are times, TagBased is a Boolean."""
    folder.mkdir()
    for name, rows in tables.items():
        frame = pl.DataFrame(rows, infer_schema_length=None)
        dates = [column for column in frame.columns if column.endswith("Date")]
        frame = frame.with_columns(pl.col(dates).str.to_datetime("%Y-%m-%dT%H:%M:%S%.f"))
        if "TagBased" in frame.columns:
            frame = frame.with_columns(pl.col("TagBased") == "True")
        frame.write_parquet(folder / f"{name}.parquet")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_events_are_those_of_people_with_the_title_of_their_question(tmp_path: Path) -> None:
    travel.prepare(tmp_path / "raw", write_xml(tmp_path / "dump", DUMP))
    raw = {path.stem: pl.read_parquet(path) for path in (tmp_path / "raw").glob("*.parquet")}

    assert raw["question"].rows(named=True) == [
        {
            "user_id": "7",
            "topic": "transit",
            "topics": "visas, uk",
            "title": "Transit visa at Heathrow & beyond?",
            "time": dt.datetime(2016, 5, 1, 10, 0, 0, 123_000),
        }
    ]
    # answer 3 has lost its question, 4 is a wiki page, 6 is the robot's
    assert raw["answer"].select("user_id", "title").rows() == [("8", "Transit visa at Heathrow & beyond?")]
    assert raw["comment"].select("user_id", "topic", "topics").rows() == [
        ("7", "transit", "visas, uk"),
        ("9", "money", "usa"),
    ]
    assert raw["favourite"].select("user_id", "title").rows() == [("9", "Transit visa at Heathrow & beyond?")]
    assert raw["bounty"].select("user_id", "amount").rows() == [("7", 50.0)]
    assert raw["badge"].select("user_id", "badge", "kind").rows() == [
        ("7", "Student", "Student"),
        ("8", "visas", "tag badge"),
    ]


def test_xml_and_parquet_give_the_same_bytes_twice(tmp_path: Path) -> None:
    xml, parquet = write_xml(tmp_path / "xml", DUMP), write_parquet(tmp_path / "parquet", DUMP)
    path = travel.prepare(tmp_path / "a", xml)
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "a").iterdir()}
    travel.prepare(tmp_path / "b", parquet)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")

    assert travel.prepare(tmp_path / "a", xml) == path == tmp_path / "a" / "qanchor.yaml"
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "a").iterdir()} == before, "unchanged files were touched"


def test_without_tags_the_topics_come_from_the_title(tmp_path: Path) -> None:
    posts = [{k: v for k, v in row.items() if k != "Tags"} for row in POSTS]
    travel.prepare(tmp_path / "raw", write_xml(tmp_path / "dump", DUMP | {"Posts": posts}))
    question = pl.read_parquet(tmp_path / "raw" / "question.parquet")
    assert question.select("topic", "topics").rows() == [("transit", "transit, visas")]


def test_nothing_of_the_dumps_day_reaches_the_logs(tmp_path: Path) -> None:
    """Changing every snapshot column changes not one byte."""
    changed = [{k: (0 if k in SNAPSHOT else v) for k, v in row.items() if k != "LastEditDate"} for row in POSTS]
    travel.prepare(tmp_path / "a", write_xml(tmp_path / "then", DUMP))
    travel.prepare(tmp_path / "b", write_xml(tmp_path / "later", DUMP | {"Posts": changed}))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    for path in (tmp_path / "a").glob("*.parquet"):
        assert set(pl.read_parquet_schema(path)) <= {
            *("user_id", "time", "topic", "topics", "title", "amount", "badge", "kind")
        }


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    dump = write_xml(tmp_path / "dump", DUMP)
    (dump / "Votes.xml").unlink()
    with pytest.raises(DataError, match=r"no Votes.parquet or Votes.xml in .*dump: download https://archive.org"):
        datasets.prepare("travel", tmp_path / "raw", dump)
    (dump / "Votes.xml").write_text("<votes><row Id='1'")
    with pytest.raises(DataError, match=r"cannot read .*Votes.xml"):
        datasets.prepare("travel", tmp_path / "raw", dump)
    comments = [*COMMENTS[:1], {**COMMENTS[1], "UserId": "nine"}]
    wrong = write_xml(tmp_path / "wrong", DUMP | {"Comments": comments})
    with pytest.raises(DataError, match=r"Comments.xml: column `UserId` holds 'nine', expected Int64"):
        datasets.prepare("travel", tmp_path / "raw", wrong)
    assert not (tmp_path / "raw").exists(), "half a data set was written"


def test_unknown_names_and_missing_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data set 'travle': known are wallet, travel"):
        datasets.prepare("travle", tmp_path)
    with pytest.raises(DataError, match=r"name the folder .* with --data-dir"):
        datasets.prepare("travel", tmp_path)


def test_the_config_asks_at_least_eight_questions(tmp_path: Path) -> None:
    settings = config.load(travel.prepare(tmp_path / "raw", write_xml(tmp_path / "dump", DUMP)))
    assert len(settings.scenarios) >= 8
    assert all(len(list(settings.root.glob(source.path))) == 1 for source in settings.sources)


@pytest.mark.skipif(not REAL.exists(), reason="the real dump lies beside the repository only where it was put")
def test_the_real_dump(tmp_path: Path) -> None:
    travel.prepare(tmp_path, REAL)
    rows = {path.stem: pl.scan_parquet(path).select(pl.len()).collect().item() for path in tmp_path.glob("*.parquet")}
    assert rows == {"answer": 42_336, "badge": 108_812, "bounty": 1_288, "comment": 156_280, "favourite": 11_798} | {
        "question": 24_937
    }
