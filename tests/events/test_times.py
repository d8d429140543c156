from __future__ import annotations

import datetime as dt

import polars as pl
import pytest

from qanchor.errors import ConfigError
from qanchor.events.times import seconds

NOON = 1738411200
UTC = dt.UTC


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([dt.datetime(2025, 2, 1, 12, 0, 0, 900_000), None], [NOON, None]),
        ([dt.datetime(2025, 2, 1, 14, tzinfo=dt.timezone(dt.timedelta(hours=2)))], [NOON]),
        ([dt.date(2025, 2, 1)], [NOON - 43200]),
        ([NOON, None], [NOON, None]),
        ([NOON + 0.7, float("nan"), float("inf"), None], [NOON, None, None, None]),
        (
            ["2025-02-01 12:00:00", "2025-02-01T12:00:00", "2025-02-01T12:00:00.999", " 2025-02-01 12:00 "],
            [NOON] * 4,
        ),
        (
            ["2025-02-01T12:00:00Z", "2025-02-01 13:00:00+01:00", "2025-02-01T04:00:00.5-0800", f"{NOON}", f"{NOON}.9"],
            [NOON] * 5,
        ),
        (["2025-02-01", "01.02.2025", "", "2025-02-30", "2025-13-01 00:00:00", None], [NOON - 43200] + [None] * 5),
    ],
)
def test_times_as_logs_have_them(values: list[object], expected: list[int | None]) -> None:
    assert seconds(pl.Series("t", values)).to_list() == expected


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_units(unit: pl.datatypes.TimeUnit) -> None:  # type: ignore[name-defined]
    column = pl.Series([dt.datetime(2025, 2, 1, 12)]).cast(pl.Datetime(unit, "Asia/Shanghai"))
    assert seconds(column).to_list() == [NOON]


def test_time_format() -> None:
    assert seconds(pl.Series(["01.02.2025 12:00", "2025-02-01"]), "%d.%m.%Y %H:%M").to_list() == [NOON, None]
    assert seconds(pl.Series([20250201]), "%Y%m%d").to_list() == [NOON - 43200]
    assert seconds(pl.Series(["01/02/2025 14:00 +0200"]), "%d/%m/%Y %H:%M %z").to_list() == [NOON]
    with pytest.raises(ConfigError, match="time_format: %d %H"):
        seconds(pl.Series(["01 12"]), "%d %H")
