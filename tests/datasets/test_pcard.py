from __future__ import annotations

import datetime as dt
from pathlib import Path

import polars as pl
import pytest

from qanchor import config
from qanchor.datasets import pcard
from qanchor.errors import DataError

HEADER = (
    "card_last4,date,amount_gbp,original_amount,original_currency,vat,"
    "merchant,spend_category,cost_centre,directorate,source_file"
)
APRIL = f"""{HEADER}
7557,2016-04-01,40.50,40.50,,VR,BP Snax 24,Vehicle Fuel,Housing,Local Services,april.xls
7557,2016-04-09,1200.00,1200.00,GBP,VR,"Amazon, UK",Books,Housing,Local Services,april.xls
7557,2016-04-20,-10.25,-10.25,,VZ,asda,Purchases Food,Housing,CYO&F,april.xls
"""
MAY = f"""{HEADER}
0012,07/05/2016,5.00,5.00,,VZ,asda,,,,may.xls
0012,08/05/2016,-900.00,-900.00,,VR,direct debit payment than,Supplies & Sev Mic,,,may.xls
"""


def council(folder: Path) -> Path:
    folder.mkdir()
    (folder / "transactions-04.csv").write_text(APRIL)
    (folder / "transactions-05.csv").write_text(MAY)
    return folder


def test_payments_refunds_and_cost_centres(tmp_path: Path) -> None:
    pcard.prepare(tmp_path / "raw", council(tmp_path / "data"))
    raw = {path.stem: pl.read_parquet(path) for path in (tmp_path / "raw").glob("*.parquet")}
    assert raw["payment"].rows() == [
        ("12", dt.date(2016, 5, 7), "asda", "uncategorised", 5.0),
        ("7557", dt.date(2016, 4, 1), "bp snax 24", "vehicle fuel", 40.5),
        ("7557", dt.date(2016, 4, 9), "amazon, uk", "books", 1200.0),
    ]
    # the settlement with the bank is no refund
    assert raw["refund"].rows() == [("7557", dt.date(2016, 4, 20), "asda", "purchases food", 10.25)]
    # once a month for each centre, on the first day that it paid
    assert raw["centre"].rows() == [
        ("12", dt.date(2016, 5, 7), "unknown", "unknown"),
        ("7557", dt.date(2016, 4, 1), "housing", "local services"),
        ("7557", dt.date(2016, 4, 20), "housing", "cyp&f"),
    ]


def test_csv_and_parquet_give_the_same_bytes(tmp_path: Path) -> None:
    csv = council(tmp_path / "csv")
    parquet = tmp_path / "parquet"
    parquet.mkdir()
    rows = pl.concat(
        pl.read_csv(path, try_parse_dates=True, schema_overrides={"date": pl.String}) for path in sorted(csv.iterdir())
    )
    dates = [dt.date(2016, 4, 1), dt.date(2016, 4, 9), dt.date(2016, 4, 20), dt.date(2016, 5, 7), dt.date(2016, 5, 8)]
    rows.with_columns(pl.Series("date", dates)).write_parquet(parquet / "transactions.parquet")
    for source, target in ((csv, "a"), (parquet, "b"), (csv, "b")):
        pcard.prepare(tmp_path / target, source)
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()
    }


def test_missing_files_columns_and_dates_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no transactions\*.parquet or transactions\*.csv in .*: download .*Birmingham"
    ):
        pcard.prepare(tmp_path / "raw", tmp_path)
    bad = tmp_path / "transactions.csv"
    bad.write_text(APRIL.replace("merchant", "supplier"))
    with pytest.raises(DataError, match=r"transactions.csv has no column `merchant` among card_last4, date"):
        pcard.prepare(tmp_path / "raw", tmp_path)
    bad.write_text(APRIL.replace("2016-04-09", "9 April"))
    with pytest.raises(DataError, match=r"column `date` holds '9 April', expected Date"):
        pcard.prepare(tmp_path / "raw", tmp_path)


def test_no_window_touches_a_month_that_was_never_published(tmp_path: Path) -> None:
    settings = config.load(pcard.prepare(tmp_path / "raw", council(tmp_path / "data")))
    assert len(settings.scenarios) >= 8
    windows = settings.windows
    for as_of in windows.train + windows.validation + windows.test:
        first = as_of - dt.timedelta(days=windows.lookback_days)
        end = as_of + dt.timedelta(days=windows.predict_days)
        for missing in (dt.date(2014, 5, 1), dt.date(2015, 4, 4), dt.date(2017, 12, 1)):
            month_end = (missing + dt.timedelta(days=31)).replace(day=1)
            assert end <= missing or first >= month_end, f"{as_of} uses {missing:%B %Y}"
