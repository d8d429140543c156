"""UCI Online Retail: invoice lines of a British gift wholesaler and shop.

An invoice whose number starts with C is a cancellation. Lines without a customer have nobody to belong to; postage,
discounts, manual corrections and bank charges are bookkeeping, not goods. Both are left out.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from qanchor.datasets.tables import Table, publish

LINES = Table(
    ("online_retail*.parquet", "[Oo]nline*[Rr]etail*.csv"),
    {
        "InvoiceNo": pl.String,
        "StockCode": pl.String,
        "Description": pl.String,
        "Quantity": pl.Int64,
        "InvoiceDate": pl.Datetime,
        "UnitPrice": pl.Float64,
        "CustomerID": pl.Int64,
        "Country": pl.String,
    },
    "https://archive.ics.uci.edu/dataset/352/online+retail and save its sheet as 'Online Retail.csv'",
    times=("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S%.f", "%m/%d/%Y %H:%M"),
)

GOODS = {
    "bag": r"bags?|shopper|sack",
    "t-light holder": r"t-lights?|tealight",
    "candle": r"candles?|candlestick|candleholder|incense",
    "light": r"lights?|lamp|lantern|lampshade",
    "cake and baking": r"cakestand|cake stand|cases|moulds?|cutters?|cookie|baking set|rolling pin",
    "box": r"box|boxes|lunchbox|chest|crates?",
    "tin": r"tins?",
    "jar": r"jars?|jam",
    "mug": r"mugs?|cups?|saucer|teacup|beaker",
    "teapot": r"teapot|tea set|tea|coffee|egg|jug",
    "plate and bowl": r"plates?|bowls?|dish|tray",
    "glass": r"glass|tumbler|decanter|vase",
    "cutlery": r"cutlery|spoons?|fork|knife",
    "bottle": r"bottles?|flask",
    "kitchen": r"kitchen|apron|oven|recipe|scales|timer|napkins?|towels?|tablecloth|coaster|placemats?|gloves",
    "hand warmer": r"warmer",
    "doormat": r"doormat|mat|rug",
    "sign": r"signs?|chalkboard|blackboard|board|memoboard|plaque|slate|word|letters?",
    "clock": r"clock",
    "frame": r"frames?|mirror|photo|album",
    "hook and rack": r"knobs?|hooks?|hanger|hangers|rack|drawer|cabinet|cornice|pegs|shelf",
    "cushion": r"cushions?|quilt|blanket|throw",
    "ornament": r"decorations?|ornament|garlands?|wreath|baubles?|bells?|windmill",
    "bunting": r"bunting",
    "card": r"cards?|postcard",
    "gift wrap": r"wrap|gift tape|ribbons?|tags?|bows?",
    "paper": r"tissues?|notebooks?|books?|paper|journal|doil(?:y|ies)|stationery|stickers?|notepad|magnets?",
    "pencil": r"pencils?|pens?|chalk|crayons?|erasers?|ruler|stamp",
    "craft kit": r"kit|craft|feltcraft|knitting|sewing|wool|paint|clay|colouring",
    "toy": r"toys?|dolls?|games?|puzzle|skittles|dominoes|rope|jigsaw|balloons?|bank|playhouse|bingo|tops",
    "garden": r"watering|planter|plant|bird feeder|picnic|parasol|herb|kneeling pad|hammock",
    "jewellery": r"necklace|earrings?|bracelet|ring|brooch|purse|charm|hair|scarf|lip gloss|fob",
    "umbrella": r"umbrella|poncho",
    "first aid": r"plasters|soap|bath|perfume|toothbrush",
    "storage": r"basket|storage|stand|organiser|container|bin|bucket|caddy|pots?|trinket",
    "travel": r"travel|passport|luggage|suitcase|wallet",
}
"""Kinds of goods by words of the description; the *last* word that names one counts ("lunch bag red retrospot")."""

MOTIFS = {
    "hearts and stars": r"hearts?|stars?|feather|bird|angel|butterfly|wicker",
    "christmas": r"christmas|xmas|advent|reindeer|santa|snowman|snowflake",
    "children": r"children'?s?|childs|kids|spaceboy|dolly|circus|baby|girl",
}
"""What it shows, for an item whose kind no word tells."""


def prepare(raw: Path, data_dir: Path) -> Path:
    """Write purchases, orders, cancellations and `qanchor.yaml` under `raw`; returns the YAML's path.

    Raises:
        DataError: `data_dir` has no Online Retail file, or it cannot be read.
    """
    goods = (
        LINES.read(data_dir)
        .filter(
            pl.col("CustomerID").is_not_null(), pl.col("StockCode").str.contains(r"^\d{5}"), pl.col("Quantity") != 0
        )
        .select(
            "InvoiceNo",
            user_id=pl.col("CustomerID").cast(pl.String),
            time="InvoiceDate",
            item=pl.col("Description").str.to_lowercase().str.replace_all(r"\s+", " ").fill_null("unknown item"),
            size=_size(pl.col("Quantity").abs()),
            amount=(pl.col("Quantity").abs() * pl.col("UnitPrice")).round(2),
            country="Country",
            cancelled=pl.col("InvoiceNo").str.starts_with("C"),
        )
    )
    kinds = _kinds(goods["item"])
    goods = goods.join(kinds, on="item", maintain_order="left")
    bought, cancelled = goods.filter(~pl.col("cancelled")), goods.filter("cancelled")
    line = ["user_id", "time", "kind", "item", "size", "amount"]
    frames = {
        "purchase": bought.select(line),
        "cancellation": cancelled.select(line),
        "order": bought.group_by("InvoiceNo", "user_id")
        .agg(
            pl.col("time").min(),
            pl.col("country").first(),
            pl.len().alias("lines"),
            # cents, since a float sum would depend on the order of the lines
            amount=((pl.col("amount") * 100).round().cast(pl.Int64).sum() / 100).round(2),
        )
        .drop("InvoiceNo"),
    }
    return publish(raw, frames, Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def _size(quantity: pl.Expr) -> pl.Expr:
    """How much of an item: few bands, so that texts are shared between customers."""
    return (
        pl.when(quantity < 3)
        .then(pl.lit("one or two"))
        .when(quantity < 12)
        .then(pl.lit("several"))
        .when(quantity < 48)
        .then(pl.lit("dozens of"))
        .otherwise(pl.lit("bulk"))
    )


def _kinds(items: pl.Series) -> pl.DataFrame:
    """item, kind: of every distinct item."""
    distinct = items.unique().sort().to_frame("item")
    goods, motifs = _last(GOODS), _last(MOTIFS)
    return distinct.with_columns(kind=pl.coalesce(goods, motifs, pl.lit("other")))


def _last(kinds: dict[str, str]) -> pl.Expr:
    """The kind that is named last in `item`, null where none is."""
    padded = pl.concat_str(pl.lit(" "), "item", pl.lit(" "))
    # the prefix is greedy, so its length is the place of the last word that names the kind
    places = pl.concat_list(
        padded.str.extract(rf"^(.*[^a-z-])(?:{words})[^a-z]", 1).str.len_bytes().cast(pl.Int64).fill_null(-1)
        for words in kinds.values()
    )
    kind = places.list.arg_max().replace_strict(dict(enumerate(kinds)), return_dtype=pl.String)
    return pl.when(places.list.max() >= 0).then(kind)
