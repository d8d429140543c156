"""The viewer: a user's profile and its pairs side by side, to be read by eye."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import polars as pl
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from qanchor.config import Config
from qanchor.events.profiles import Profiles
from qanchor.useru.subjects import Subjects
from qanchor.useru.synthesis.profile_text import profile_texts
from qanchor.useru.synthesis.redact import Redactor

LINES = 60
"""Lines of a profile."""


def side_by_side(config: Config, past: Profiles, pairs: pl.DataFrame) -> Iterator[Table]:
    """One table for every profile of `past`: on the left what it holds, on the right what is asked and answered."""
    for profile in profile_texts(config, past, Redactor((), ()), LINES):
        as_of = dt.datetime.fromtimestamp(profile.as_of, dt.UTC).replace(tzinfo=None)
        table = Table(
            title=f"{profile.user_id} as of {as_of:%Y-%m-%d}", title_justify="left", show_lines=True, expand=True
        )
        table.add_column("profile", ratio=2)
        table.add_column("pairs", ratio=3)
        own = pairs.filter(pl.col("user_id") == profile.user_id, pl.col("as_of") == as_of)
        told = [_pair(*row) for row in own.select("topic", "query", "answer", "support").iter_rows()]
        table.add_row(Text(profile.text), Group(*told))
        yield table


def _pair(topic: str, query: str, answer: str, support: list[str]) -> RenderableType:
    said = Text.assemble((topic, "dim"), "\n", (query, "bold"), "\n", answer)
    if support:
        said.append("\n" + "; ".join(support), "italic dim")
    return Padding(said, (0, 0, 1, 0))


def topics(subjects: Subjects) -> Table:
    """What D_uqa asks about in these logs, and the share of the events that speaks of it."""
    table = Table("topic", "called", "events", "asked, for example")
    for subject, share in zip(subjects.all, subjects.share_C.tolist(), strict=True):
        question = subject.topic.questions[0].replace("{concept}", subject.concept.name)
        table.add_row(subject.name, subject.concept.name, f"{share:.1%}", question)
    return table
