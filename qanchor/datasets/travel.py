"""travel.stackexchange.com: questions, answers, comments, badges, favourites and bounties of its users.

Reads the Stack Exchange dump, its own XML or the same tables as Parquet. The dump is a snapshot: scores, views, counts,
edits, reputations and the users' profiles are as of its last day, whatever day a post is of, so none of them is read.
Texts are titles: an answer, comment, favourite or bounty says which question it is about.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from qanchor.datasets.tables import Table, publish

ORIGIN = "https://archive.org/download/stackexchange/travel.stackexchange.com.7z (unpack it)"

POSTS = Table(
    ("Posts.parquet", "Posts.xml"),
    {
        "Id": pl.Int64,
        "PostTypeId": pl.Int64,
        "ParentId": pl.Int64,
        "OwnerUserId": pl.Int64,
        "CreationDate": pl.Datetime,
        "Title": pl.String,
        "Tags": pl.String,
    },
    ORIGIN,
    optional=("Tags",),
)
COMMENTS = Table(
    ("Comments.parquet", "Comments.xml"),
    {"PostId": pl.Int64, "UserId": pl.Int64, "CreationDate": pl.Datetime},
    ORIGIN,
)
VOTES = Table(
    ("Votes.parquet", "Votes.xml"),
    {
        "PostId": pl.Int64,
        "UserId": pl.Int64,
        "CreationDate": pl.Datetime,
        "VoteTypeId": pl.Int64,
        "BountyAmount": pl.Float64,
    },
    ORIGIN,
)
BADGES = Table(
    ("Badges.parquet", "Badges.xml"),
    {"UserId": pl.Int64, "Date": pl.Datetime, "Name": pl.String, "TagBased": pl.Boolean},
    ORIGIN,
)

QUESTION, ANSWER = 1, 2
FAVOURITE, BOUNTY = 5, 8

TOPICS = {
    "visa refusals": r"refus|reject|denied|denial|overstay|deport|banned?\b",
    "transit": r"transit|layover|stopover|connecti(ng|on)|self-transfer|short-connections",
    "schengen": r"schengen",
    "visas": r"visas?\b|\besta\b|\beta\b|vwp|b1|b2|entry clearance|invitation letter",
    "immigration": r"immigration|border|customs|entry|enter(ing)?\b|re-?enter|exit|stamp",
    "passports": r"passport|national(ity|s)?\b|citizen|identity|\bid\b|residen(ce|t)|green card|permit",
    "luggage": r"luggage|baggage|\bbags?\b|carry|suitcase|backpack|liquids?|electronic",
    "airports": r"airport|terminal|security check|boarding|check-?in|immigration hall|lounge|\b(lhr|jfk|cdg|fra)\b",
    "tickets": r"tickets?\b|book(ed|ing|ings)?\b|reservation|refund|cancel|fares?\b|cheap|price|loyalty|miles",
    "flights": r"flights?\b|fly(ing)?\b|airlines?\b|airways|air-travel|planes?\b|seats?\b|ryanair|easyjet|lufthansa",
    "trains": r"trains?\b|rail(way|card)?s?\b|interrail|eurail|eurostar|metro\b|subway",
    "buses and ferries": r"bus(es)?\b|coach|ferr(y|ies)\b|boats?\b|cruis|ship\b|public[- ]transport|transport",
    "cars": r"cars?\b|driv(e|ing|er)|licen[cs]e|rental|rent\b|taxi|uber|tolls?\b|roads?\b|parking|hitch|motorcycle",
    "money": r"money|cash|cards?\b|bank|atm\b|currency|exchange|credit|debit|\bpay|tax|vat\b|tip(ping)?\b|budget",
    "health and safety": r"health|vaccin|insur|safe|danger|scam|theft|crime|medic|hospital|doctor|police|legal|law\b",
    "accommodation": r"hotels?|hostels?|airbnb|accommodation|apartment|camp(ing|site)?|stay(ing)? (in|at)|sleep",
    "food": r"food|eat(ing)?\b|restaurants?|drink|alcohol|beer|wine|vegetarian|water\b|breakfast|coffee",
    "phones and internet": r"sim\b|phones?\b|internet|wi-?fi|mobile|roaming|data plan|cellphones|plug|adapter|charg",
    "outdoors": r"hik(e|ing)|trek|mountain|beach|island|national park|climb|ski|div(e|ing)|trail|wildlife|weather",
    "sights": r"museum|sightseeing|visit|tour(s|ist)?\b|attractions?|temple|castle|festival|city|town|where-on-earth",
    "itineraries": r"trip|itinerary|route|days?\b|weeks?\b|travel|journey|get (from|to)|way (from|to|between)|plan",
}
"""Coarse topics of a question, by its tags and title; the first that is found is its main one."""


def prepare(raw: Path, data_dir: Path) -> Path:
    """Write one Parquet a modality and `qanchor.yaml` under `raw`; returns the YAML's path. Repeatable byte by byte.

    Raises:
        DataError: `data_dir` lacks a file of the dump, or one of them cannot be read.
    """
    posts, votes = POSTS.read(data_dir), VOTES.read(data_dir)
    about = _about(posts)
    by_type = {kind: posts.filter(pl.col("PostTypeId") == kind) for kind in (QUESTION, ANSWER)}
    by_vote = {kind: votes.filter(pl.col("VoteTypeId") == kind) for kind in (FAVOURITE, BOUNTY)}
    badges = BADGES.read(data_dir)
    frames = {
        "question": _events(by_type[QUESTION].join(about, left_on="Id", right_on="PostId"), "OwnerUserId"),
        "answer": _events(by_type[ANSWER].join(about, left_on="Id", right_on="PostId"), "OwnerUserId"),
        "comment": _events(COMMENTS.read(data_dir).join(about, on="PostId"), "UserId"),
        "favourite": _events(by_vote[FAVOURITE].join(about, on="PostId"), "UserId"),
        "bounty": _events(by_vote[BOUNTY].join(about, on="PostId"), "UserId", pl.col("BountyAmount").alias("amount")),
        "badge": _users(badges, "UserId").select(
            "user_id",
            time="Date",
            badge="Name",
            # tag badges are as many as tags
            kind=pl.when("TagBased").then(pl.lit("tag badge")).otherwise("Name"),
        ),
    }
    return publish(raw, frames, Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def _about(posts: pl.DataFrame) -> pl.DataFrame:
    """PostId of every question and answer, with `title`, `topics` (all) and `topic` (the main one) of its question."""
    words = pl.concat_str(pl.col("Tags").fill_null(""), pl.col("Title").str.to_lowercase(), separator=" ")
    topics = pl.concat_list(
        pl.when(words.str.contains(rf"\b(?:{pattern})")).then(pl.lit(name)) for name, pattern in TOPICS.items()
    ).list.drop_nulls()
    # a dump's tags are <visas><uk>, in newer ones |visas|uk|
    tags = pl.col("Tags").str.extract_all(r"[^<>|]+").list.join(", ")
    questions = (
        posts.filter(pl.col("Title").is_not_null() & (pl.col("PostTypeId") == QUESTION))
        .with_columns(topics=topics)
        .select(
            question="Id",
            title="Title",
            topic=pl.col("topics").list.first().fill_null("other"),
            topics=pl.coalesce(tags, pl.when(pl.col("topics").list.len() > 0).then(pl.col("topics").list.join(", "))),
        )
        .with_columns(pl.col("topics").fill_null("travel"))
    )
    known = posts.filter(pl.col("PostTypeId").is_in([QUESTION, ANSWER]))
    # a post whose question was deleted by the dump's day has no title left and no place in the logs
    return known.select(PostId="Id", question=pl.coalesce("ParentId", "Id")).join(questions, on="question")


def _events(rows: pl.DataFrame, user: str, *more: pl.Expr) -> pl.DataFrame:
    return _users(rows, user).select("user_id", "topic", "topics", "title", *more, time="CreationDate")


def _users(rows: pl.DataFrame, user: str) -> pl.DataFrame:
    """Rows of people: without deleted accounts (no id) and the site's own robot (-1)."""
    return rows.filter(pl.col(user) > 0).with_columns(user_id=pl.col(user).cast(pl.String))
