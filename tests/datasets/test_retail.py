from __future__ import annotations

import datetime as dt
from pathlib import Path

import polars as pl
import pytest

from qanchor import config
from qanchor.datasets import retail
from qanchor.errors import DataError

CSV = """InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
536365,85123A,WHITE HANGING HEART T-LIGHT HOLDER,6,12/1/2010 8:26,2.55,17850,United Kingdom
536365,22041,"RECORD FRAME 7"" SINGLE  SIZE",48,12/1/2010 8:26,2.55,17850,United Kingdom
536366,20725,LUNCH BAG RED RETROSPOT,2,12/1/2010 8:28,1.65,17850,United Kingdom
C536379,20725,LUNCH BAG RED RETROSPOT,-2,12/1/2010 9:41,1.65,17850,United Kingdom
C536379,D,Discount,-1,12/1/2010 9:41,27.5,17850,United Kingdom
536370,POST,POSTAGE,3,12/1/2010 8:45,18,12583,France
536380,22961,JAM MAKING SET PRINTED,24,12/2/2010 9:41,1.45,,United Kingdom
"""


def shop(folder: Path, name: str = "Online Retail.csv", text: str = CSV) -> Path:
    folder.mkdir()
    (folder / name).write_text(text)
    return folder


def test_lines_orders_and_cancellations_of_customers(tmp_path: Path) -> None:
    retail.prepare(tmp_path / "raw", shop(tmp_path / "data"))
    raw = {path.stem: pl.read_parquet(path) for path in (tmp_path / "raw").glob("*.parquet")}
    first = dt.datetime(2010, 12, 1, 8, 26)
    assert raw["purchase"].rows() == [
        ("17850", first, "frame", 'record frame 7" single size', "bulk", 122.4),
        ("17850", first, "t-light holder", "white hanging heart t-light holder", "several", 15.3),
        ("17850", dt.datetime(2010, 12, 1, 8, 28), "bag", "lunch bag red retrospot", "one or two", 3.3),
    ]
    assert raw["order"].rows() == [
        ("17850", first, "United Kingdom", 2, 137.7),
        ("17850", dt.datetime(2010, 12, 1, 8, 28), "United Kingdom", 1, 3.3),
    ]
    # postage, discounts and lines without a customer are no purchases
    assert raw["cancellation"].select("item", "amount").rows() == [("lunch bag red retrospot", 3.3)]


def test_csv_and_parquet_give_the_same_bytes(tmp_path: Path) -> None:
    csv = shop(tmp_path / "csv")
    typed = pl.read_csv(csv / "Online Retail.csv").with_columns(pl.col("InvoiceDate").str.to_datetime("%m/%d/%Y %H:%M"))
    (tmp_path / "parquet").mkdir()
    typed.write_parquet(tmp_path / "parquet" / "online_retail.parquet")
    spreadsheet = shop(tmp_path / "other", "online_retail.csv", CSV.replace("17850,", "17850.0,"))
    for source, target in ((csv, "a"), (tmp_path / "parquet", "b"), (spreadsheet, "c"), (csv, "c")):
        retail.prepare(tmp_path / target, source)
    a, b, c = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in "abc")
    assert a == b == c


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        ("jumbo bag pink vintage paisley", "bag"),
        ("paper chain kit 50's christmas", "craft kit"),
        ("rocking horse green christmas", "christmas"),
        ("white hanging heart t-light holder", "t-light holder"),
        ("rabbit night light", "light"),
        ("regency cakestand 3 tier", "cake and baking"),
        ("set of 3 cake tins pantry design", "tin"),
        ("heart of wicker small", "hearts and stars"),
        ("baggage", "other"),
    ],
)
def test_the_kind_is_the_last_noun_that_names_one(item: str, kind: str) -> None:
    assert retail._kinds(pl.Series([item, item])).rows() == [(item, kind)]


def test_kinds_are_few() -> None:
    assert len(retail.GOODS) + len(retail.MOTIFS) + 1 <= 40


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no online_retail\*.parquet or .* in .*: download https://archive.ics.uci.edu"
    ):
        retail.prepare(tmp_path / "raw", tmp_path)


def test_the_config_asks_at_least_eight_questions_in_windows_that_the_year_holds(tmp_path: Path) -> None:
    settings = config.load(retail.prepare(tmp_path / "raw", shop(tmp_path / "data")))
    assert len(settings.scenarios) >= 8
    windows = settings.windows
    assert min(windows.train) - dt.timedelta(days=windows.lookback_days) >= dt.date(2010, 12, 1)
    assert max(windows.test) + dt.timedelta(days=windows.predict_days) <= dt.date(2011, 12, 10)
