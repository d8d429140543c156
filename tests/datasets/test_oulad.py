from __future__ import annotations

import datetime as dt
from pathlib import Path

import polars as pl
import pytest

from qanchor import config
from qanchor.datasets import oulad
from qanchor.errors import DataError

AS_OF = dt.datetime(2013, 12, 30)
"""90 days after 1 October 2013."""

FILES = {
    "studentInfo.csv": f"""{",".join(oulad.STUDENTS.columns)}
AAA,2013J,1,M,Wales,HE Qualification,90-100%,55<=,0,240,N,Pass
AAA,2013J,2,F,Scotland,HE Qualification,?,35-55,1,60,Y,Withdrawn
AAA,2013J,3,F,Scotland,HE Qualification,10-20,0-35,0,60,N,Withdrawn
BBB,2013J,3,F,Scotland,HE Qualification,10-20,0-35,0,60,N,Fail
AAA,2013J,4,M,Wales,HE Qualification,0-10%,0-35,0,60,N,Withdrawn
AAA,2013J,5,M,Wales,HE Qualification,0-10%,0-35,0,60,N,Distinction
AAA,2013J,6,M,Wales,HE Qualification,0-10%,0-35,0,60,N,Withdrawn
""",
    "studentRegistration.csv": """code_module,code_presentation,id_student,date_registration,date_unregistration
AAA,2013J,1,-159,
AAA,2013J,2,-10,89
AAA,2013J,3,-53,90
BBB,2013J,3,5,
AAA,2013J,4,-53,?
AAA,2013J,5,,
AAA,2013J,6,-20,200
""",
    "assessments.csv": """code_module,code_presentation,id_assessment,assessment_type,date,weight
AAA,2013J,1752,TMA,19,10
AAA,2013J,1753,TMA,100,20
AAA,2013J,1757,Exam,?,100
""",
    "studentAssessment.csv": """id_assessment,id_student,date_submitted,is_banked,score
1752,1,18,0,78
1753,1,90,0,35
1752,5,-1,1,?
1752,5,30,0,80
1757,5,180,0,90
""",
}


def university(folder: Path, **changed: str) -> Path:
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(changed.get(name.removesuffix(".csv"), text))
    return folder


def labels(raw: Path, name: str) -> dict[str, int]:
    frame = pl.read_parquet(raw / "labels" / f"{name}.parquet")
    assert set(frame["as_of"]) == {AS_OF}
    return dict(frame.select("user_id", "label").rows())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_days_become_dates_and_texts(tmp_path: Path) -> None:
    oulad.prepare(tmp_path / "raw", university(tmp_path / "data"))
    raw = {path.stem: pl.read_parquet(path) for path in (tmp_path / "raw").glob("*.parquet")}
    assert raw["submission"].rows() == [
        ("1", dt.datetime(2013, 10, 19), "AAA", "TMA", "60 to 79", "early", 78.0),
        ("1", dt.datetime(2013, 12, 30), "AAA", "TMA", "below 40", "a week or more early", 35.0),
        ("5", dt.datetime(2013, 9, 30), "AAA", "TMA", "not marked", "carried over from an earlier attempt", None),
        ("5", dt.datetime(2013, 10, 31), "AAA", "TMA", "80 or more", "a week or more late", 80.0),
        ("5", dt.datetime(2014, 3, 30), "AAA", "Exam", "80 or more", "at the end", 90.0),
    ]
    # student 5 registered nobody knows when
    assert raw["registration"].filter(user_id="3").rows() == [
        ("3", dt.datetime(2013, 8, 9), "AAA", "autumn", "one to three months before the start"),
        ("3", dt.datetime(2013, 10, 6), "BBB", "autumn", "after the start"),
    ]
    assert raw["course"].filter(user_id="3")["time"].to_list() == [dt.datetime(2013, 10, 1), dt.datetime(2013, 10, 6)]
    assert raw["student"].filter(user_id="2").row(0, named=True) | {"time": None} == {
        "user_id": "2",
        "time": None,
        "gender": "F",
        "region": "Scotland",
        "highest_education": "HE Qualification",
        "age_band": "35-55",
        "studied_credits": 60,
        "deprivation": "unknown",
        "disability": "yes",
        "previous_attempts": 1,
    }


def test_labels_ask_only_who_was_still_registered(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    oulad.prepare(raw, university(tmp_path / "data"))
    # 2 left the day before; 4 withdrew on no known day; 3 leaves one course on the very day and fails the other
    assert labels(raw, "withdraws") == {"1": 0, "3": 1, "5": 0, "6": 1}
    assert labels(raw, "fails") == {"1": 0, "3": 1, "5": 0, "6": 0}
    assert labels(raw, "distinction") == {"1": 0, "3": 0, "5": 1, "6": 0}
    # day 90 counts, day 180 does not
    assert labels(raw, "submits_again") == {"1": 1, "3": 0, "5": 0, "6": 0}


def test_how_it_ends_does_not_reach_the_logs(tmp_path: Path) -> None:
    """Another final result, another day of leaving: the labels differ, the logs do not."""
    ended = FILES["studentInfo.csv"].replace("Withdrawn", "Pass").replace("Distinction", "Fail")
    left = FILES["studentRegistration.csv"].replace(",200", ",").replace(",89", ",-5").replace(",?", ",3")
    oulad.prepare(tmp_path / "a", university(tmp_path / "then"))
    oulad.prepare(tmp_path / "b", university(tmp_path / "later", studentInfo=ended, studentRegistration=left))
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    differing = {name for name in a if a[name] != b[name]}
    assert differing == {f"labels/{name}.parquet" for name in ("withdraws", "fails", "distinction")}
    for path in (tmp_path / "a").glob("*.parquet"):
        assert not {"final_result", "date_unregistration"} & set(pl.read_parquet_schema(path))


def test_csv_and_parquet_give_the_same_bytes(tmp_path: Path) -> None:
    csv, parquet = university(tmp_path / "csv"), tmp_path / "parquet"
    parquet.mkdir()
    for table in (oulad.STUDENTS, oulad.REGISTRATIONS, oulad.ASSESSMENTS, oulad.SUBMISSIONS):
        table.read(csv).write_parquet(parquet / table.files[0])
    oulad.prepare(tmp_path / "a", csv)
    oulad.prepare(tmp_path / "b", parquet)
    oulad.prepare(tmp_path / "b", csv)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    data = university(tmp_path / "data")
    (data / "assessments.csv").unlink()
    with pytest.raises(
        DataError, match=r"no assessment.parquet or assessments.csv in .*data: download https://analyse"
    ):
        oulad.prepare(tmp_path / "raw", data)


def test_every_as_of_is_a_presentations_day_90(tmp_path: Path) -> None:
    settings = config.load(oulad.prepare(tmp_path / "raw", university(tmp_path / "data")))
    assert len(settings.scenarios) >= 5
    windows = settings.windows
    starts = {as_of - dt.timedelta(days=oulad.AS_OF_DAY) for as_of in windows.train + windows.validation + windows.test}
    assert {(day.month, day.day) for day in starts} == {(2, 1), (10, 1)}
    assert windows.predict_days == oulad.PREDICT_DAYS
    assert all((settings.root / s.labels).exists() for s in settings.scenarios.values() if s.labels)
