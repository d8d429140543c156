from __future__ import annotations

import datetime as dt
import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from qanchor import config
from qanchor.config import Config
from qanchor.errors import DataError
from qanchor.events.ingest import ingest
from qanchor.events.sketch import sketch, write

START = dt.datetime(2024, 1, 1)
Row = Callable[[int, random.Random], dict[str, Any]]


def table(row: Row, count: int = 400) -> list[dict[str, Any]]:
    rng = random.Random(0)
    return [row(n, rng) for n in range(count)]


def when(n: int, count: int = 400, days: int = 200) -> dt.datetime:
    return START + dt.timedelta(days=days * n / count, seconds=n)


def csv(path: Path, rows: list[dict[str, Any]], separator: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(rows, infer_schema_length=None).write_csv(path, separator=separator)
    return path


def sketched(tmp_path: Path, *paths: Path) -> tuple[Config, str]:
    text = sketch(paths, tmp_path)
    (tmp_path / "qanchor.yaml").write_text(text)
    return config.load(tmp_path / "qanchor.yaml"), text


def payment(n: int, rng: random.Random) -> dict[str, Any]:
    user = rng.randint(1, 40)
    return {
        "transaction_id": f"t-{n}",
        "customer_id": f"C{user}",
        "accountId": 7_000 + user,
        "Created At": f"{when(n):%d/%m/%Y %H:%M}",
        "updated_at": f"{when(n) + dt.timedelta(days=1):%d/%m/%Y %H:%M}",
        "category": rng.choice(["food", "rent", "fun"]),
        "merchant": f"shop {rng.randint(1, 60)}",
        "coupon": rng.choice([None, None, "x"]),
        "price": f"£{rng.randint(1, 99)}",
        "amount": round(rng.expovariate(0.1), 2),
        "email": f"{user}@example.com",
    }


def test_a_messy_csv(tmp_path: Path) -> None:
    settings, text = sketched(tmp_path, csv(tmp_path / "logs" / "bills.csv", table(payment)))
    (source,) = settings.sources
    assert source.path == "logs/bills.csv"
    assert (source.user, source.time, source.time_format) == ("customer_id", "Created At", "%d/%m/%Y %H:%M")
    assert source.modality == "bills"
    assert source.text == "category: {category}, merchant: {merchant}"
    assert (source.category, source.value) == ("{category}", "amount")
    assert "customer_id  # also possible: accountId" in text
    assert "Created At  # also possible: updated_at" in text
    for left_out in ("transaction_id (an id)", "email (an id)", "price (a number written as text)", "coupon (6"):
        assert f"# left out: {left_out}" in text


def test_months_are_one_source_and_every_window_is_whole(tmp_path: Path) -> None:
    rows = table(payment)
    for month in range(4):
        csv(tmp_path / "logs" / f"bills-2024-{9 + month:02}.csv", rows[month * 100 : (month + 1) * 100])
    settings, _ = sketched(tmp_path, tmp_path / "logs")
    assert ingest(settings, tmp_path / "store").events == 400, "the sketch does not run"
    assert [source.path for source in settings.sources] == ["logs/bills*.csv"]
    assert len(list(tmp_path.glob("logs/bills*.csv"))) == 4
    first, last = START.date(), when(399).date()
    windows = settings.windows
    assert min(windows.train) - dt.timedelta(days=windows.lookback_days) >= first
    assert windows.test[0] + dt.timedelta(days=windows.predict_days) == last + dt.timedelta(days=1)
    assert len(windows.train) > 1


def test_other_files_of_the_folder_are_not_swept_in(tmp_path: Path) -> None:
    rows = table(payment)
    chosen = [csv(tmp_path / f"bills-{n}.csv", rows) for n in (1, 2)]
    csv(tmp_path / "bills-broken.csv", rows)
    settings, _ = sketched(tmp_path, *chosen)
    assert [source.path for source in settings.sources] == ["bills-1.csv", "bills-2.csv"]
    assert settings.modality_names == ("bills",)


def test_parquet_json_lines_and_a_table_of_users(tmp_path: Path) -> None:
    app = [
        {"userId": f"C{n % 40}", "ts": int(when(n).timestamp()), "app": "maps" if n % 3 else "mail"} for n in range(400)
    ]
    lines = [json.dumps(row) for row in app]
    with gzip.open(tmp_path / "app.jsonl.gz", "wt") as file:
        file.write("\n".join([*lines[:10], "{broken", *lines[10:]]))
    search = {"uid": [f"C{n % 40}" for n in range(400)], "time": [when(n) for n in range(400)]}
    pl.DataFrame({**search, "query": [f"red shoes {n}" for n in range(400)]}).write_parquet(tmp_path / "search.parquet")
    users = [
        {"user_id": f"C{n}", "signup_date": "2023-11-05", "city": "Rome" if n % 2 else "Oslo", "age": 20 + n}
        for n in range(40)
    ]
    settings, text = sketched(
        tmp_path, tmp_path / "app.jsonl.gz", tmp_path / "search.parquet", csv(tmp_path / "users.csv", users)
    )

    by_modality = {source.modality: source for source in settings.sources}
    assert by_modality["app"].text == "{app}"
    assert (by_modality["app"].user, by_modality["app"].time, by_modality["app"].time_format) == ("userId", "ts", None)
    assert by_modality["search"].text == "{query}", "free text is what an encoder is for"
    assert by_modality["users"].features == ("city", "age")
    report = ingest(settings, tmp_path / "store")
    assert (report.events, report.rejects) == (400 + 400 + 40 * 2, {"broken line": 1})
    # the acts give the windows; the table reaches back to its own first day
    assert settings.windows.lookback_days == 90
    oldest = settings.windows.test[0] - dt.timedelta(days=settings.lookback_days("users"))
    assert oldest <= dt.date(2023, 11, 5)
    assert "check that it was known by then" in text
    assert settings.scenarios.keys() == {"any_app", "any_search", "inactive"}


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ("%m/%d/%Y", "%m/%d/%Y"),
        ("%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M:%S"),
        ("%Y%m%d", "%Y%m%d"),
        ("%Y-%m-%dT%H:%M:%S.%fZ", None),
        ("%Y-%m-%d", None),
        ("%b %d, %Y", "%b %d, %Y"),
        ("%m/%d/%Y %I:%M %p", "%m/%d/%Y %I:%M %p"),
    ],
)
def test_time_formats(tmp_path: Path, shown: str, expected: str | None) -> None:
    rows = [{"user": n % 9, "date": when(n).strftime(shown), "page": "a" if n % 2 else "b"} for n in range(400)]
    settings, _ = sketched(tmp_path, csv(tmp_path / "visits.csv", rows))
    assert settings.sources[0].time_format == expected
    assert settings.windows.test[0] == when(399).date() - dt.timedelta(days=29)


def test_a_date_that_reads_both_ways_is_said_to(tmp_path: Path) -> None:
    rows = [{"user": n % 9, "date": f"{1 + n % 12:02}/03/2024", "page": "a" if n % 2 else "b"} for n in range(100)]
    settings, text = sketched(tmp_path, csv(tmp_path / "visits.csv", rows))
    # 1 to 12 March, rather than the third of every month
    assert settings.sources[0].time_format == "%d/%m/%Y"
    assert 'time_format: "%d/%m/%Y"  # also possible: "%m/%d/%Y"' in text


def test_stray_times_do_not_stretch_the_windows(tmp_path: Path) -> None:
    rows = [{"user": n % 9, "time": f"{when(n, 4_000)}", "page": "a" if n % 2 else "b"} for n in range(4_000)]
    rows[7]["time"] = "1999-12-31 00:00:00"
    settings, _ = sketched(tmp_path, csv(tmp_path / "visits.csv", rows))
    assert min(settings.windows.train) >= START.date() + dt.timedelta(days=settings.windows.lookback_days)


def test_short_logs_get_short_windows(tmp_path: Path) -> None:
    rows = [{"user": n % 9, "time": f"{when(n, 400, 3)}", "page": "a" if n % 2 else "b"} for n in range(400)]
    windows = sketched(tmp_path, csv(tmp_path / "visits.csv", rows))[0].windows
    assert (windows.lookback_days, windows.predict_days, windows.test) == (1, 1, (dt.date(2024, 1, 3),))


def test_rows_without_a_user_are_allowed_for(tmp_path: Path) -> None:
    rows = [{"user": n % 9 if n % 4 else None, "time": f"{when(n)}", "page": "a" if n % 2 else "b"} for n in range(400)]
    settings, text = sketched(tmp_path, csv(tmp_path / "visits.csv", rows))
    assert settings.max_reject_rate == 1.0
    report = ingest(settings, tmp_path / "store")
    assert (report.events, report.rejects) == (300, {"no user": 100})
    assert "25% of the rows of visits have no user or time" in text


def test_labels_become_scenarios_and_never_events(tmp_path: Path) -> None:
    labels = [{"user_id": f"C{n}", "as_of": "2024-05-01", "label": n % 2} for n in range(40)]
    bills = csv(tmp_path / "bills.csv", table(payment))
    settings, _ = sketched(tmp_path, bills, csv(tmp_path / "labels" / "churned.csv", labels))
    assert settings.modality_names == ("bills",)
    assert settings.scenarios["churned"].labels == "labels/churned.csv"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            lambda n, _: {"order_id": n, "date": f"{when(n)}", "item": "a"},
            "order_id, date, item looks like a user's id",
        ),
        (lambda n, _: {"user_id": n % 9, "item": "ab"[n % 2]}, "user_id, item looks like the event's time; rename"),
        (lambda n, _: {"user_id": n % 9, "ts": 1_700_000_000_000 + n}, "`ts` looks like milliseconds"),
        (lambda n, _: {"user_id": n % 9, "ts": f"{START}", "item": "a"}, r"hold 1 day\(s\), 2024-01-01 to 2024-01-01"),
    ],
)
def test_hopeless_logs_are_refused(tmp_path: Path, row: Row, message: str) -> None:
    with pytest.raises(DataError, match=message):
        sketch([csv(tmp_path / "log.csv", table(row))])


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*nowhere.csv"):
        sketch([tmp_path / "nowhere.csv"])
    with pytest.raises(DataError, match="no log files in"):
        sketch([tmp_path])
    with pytest.raises(DataError, match="separates its columns by ';', expected commas"):
        sketch([csv(tmp_path / "log.csv", table(payment), ";")])
    (tmp_path / "log.csv").write_text("user_id,time,page\n")
    with pytest.raises(DataError, match="has no rows"):
        sketch([tmp_path / "log.csv"])
    (tmp_path / "log.parquet").write_bytes(b"PAR1 no, not really")
    with pytest.raises(DataError, match=r"cannot read .*log.parquet"):
        sketch([tmp_path / "log.parquet"])
    (tmp_path / "latin.csv").write_bytes("user_id,time,page\n1,2024-01-01,caf\xe9\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"cannot read .*latin.csv .*UTF-8"):
        sketch([tmp_path / "latin.csv"])


def test_write_does_not_replace_what_a_person_has_mended(tmp_path: Path) -> None:
    logs, out = [csv(tmp_path / "bills.csv", table(payment))], tmp_path / "qanchor.yaml"
    write(logs, out)
    out.write_text("# mine\n")
    with pytest.raises(DataError, match="--force"):
        write(logs, out)
    assert out.read_text() == "# mine\n"
    write(logs, out, force=True)
    assert config.load(out).sources[0].path == "bills.csv"
