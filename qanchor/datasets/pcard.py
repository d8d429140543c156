"""Purchase cards of a city council: what was bought where, by which cost centre.

A user is a card. Negative amounts are refunds and a modality of their own; a card's monthly settlement with the bank is
neither a payment nor a refund and is left out.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from qanchor.datasets.tables import Table, publish

TRANSACTIONS = Table(
    ("transactions*.parquet", "transactions*.csv"),
    {
        "card_last4": pl.Int64,
        "date": pl.Date,
        "amount_gbp": pl.Float64,
        "merchant": pl.String,
        "spend_category": pl.String,
        "cost_centre": pl.String,
        "directorate": pl.String,
    },
    "the purchase card transactions of Birmingham City Council (data.birmingham.gov.uk) as transactions*.csv",
    times=("%Y-%m-%d", "%d/%m/%Y"),
)

SETTLEMENT = "direct debit payment"


def prepare(raw: Path, data_dir: Path) -> Path:
    """Write payments, refunds, cost centres and `qanchor.yaml` under `raw`; returns the YAML's path.

    Raises:
        DataError: `data_dir` has no transactions, or they cannot be read.
    """
    rows = TRANSACTIONS.read(data_dir).filter(~pl.col("merchant").str.to_lowercase().str.starts_with(SETTLEMENT))
    rows = rows.select(
        user_id=pl.col("card_last4").cast(pl.String),
        time="date",
        merchant=pl.col("merchant").str.to_lowercase().fill_null("unknown"),
        category=pl.col("spend_category").str.to_lowercase().fill_null("uncategorised"),
        cost_centre=pl.col("cost_centre").str.to_lowercase().fill_null("unknown"),
        directorate=pl.col("directorate")
        .str.to_lowercase()
        .str.replace("cyo&f", "cyp&f", literal=True)
        .fill_null("unknown"),
        amount="amount_gbp",
    )
    centres = ["cost_centre", "directorate"]
    frames = {
        "payment": rows.filter(pl.col("amount") >= 0).drop(centres),
        "refund": rows.filter(pl.col("amount") < 0).with_columns(amount=-pl.col("amount")).drop(centres),
        # whom a card buys for changes slowly: said once a month, with the month's first purchase for it
        "centre": rows.group_by("user_id", pl.col("time").dt.truncate("1mo").alias("month"), *centres)
        .agg(pl.col("time").min())
        .select("user_id", "time", *centres),
    }
    return publish(raw, frames, Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
